"""Leases in an object store: an object with a holder, an epoch and a beat that its holder keeps raising.

No clock is compared between machines. Whoever wants a lease watches the beat for the time to live by its own monotonic
clock; a beat that stands still belongs to a process that died or is stopped, and the lease is taken over with the next
epoch. The former holder's next write of the beat is refused, by which it knows that it has lost the lease. The method
is that of lock services with fencing by epoch (Gray and Cheriton 1989, "Leases"), with a conditional write instead of
the service.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from indexmill.storage.errors import BuildInProgress, IndexmillError, LeaseLost
from indexmill.storage.object_client import ObjectClient, ObjectContent
from indexmill.storage.stopping import raise_if_stopping

LEASE_VARIABLE = "INDEXMILL_LEASE_SECONDS"
DEFAULT_LEASE_SECONDS = 15.0


def get_lease_seconds() -> float:
    """Return how long a beat may stand still before a lease counts as abandoned."""
    return float(os.environ.get(LEASE_VARIABLE, DEFAULT_LEASE_SECONDS))


@dataclass(frozen=True)
class LeaseState:
    """The content of a lease object. An empty holder means that it is free."""

    holder: str
    epoch: int
    beat: int

    def to_bytes(self) -> bytes:
        """Encode the state as JSON."""
        return json.dumps({"holder": self.holder, "epoch": self.epoch, "beat": self.beat}).encode()


def parse_state(data: bytes) -> LeaseState:
    """Decode a lease; one that cannot be read counts as free, of epoch 0."""
    try:
        values = json.loads(data)
        return LeaseState(str(values["holder"]), int(values["epoch"]), int(values["beat"]))
    except (ValueError, KeyError, TypeError):
        return LeaseState("", 0, 0)


class HeldLease:
    """A lease that this process holds, with the thread that raises its beat.

    `check` must be called before anything is written that the lease protects.
    """

    def __init__(self, client: ObjectClient, key: str, state: LeaseState, version: dict[str, str]) -> None:
        self._client, self.key, self._state, self._version = client, key, state, version
        self._seconds = get_lease_seconds()
        self._confirmed = time.monotonic()
        self._lock, self._ended, self._lost = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._keep_beating, name=f"lease {key}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost unless the lease is certainly held: after a pause, its beat is written before anything else."""
        if not self._lost and time.monotonic() - self._confirmed > self._seconds / 2:
            self._beat()
        if self._lost:
            raise LeaseLost(
                "another process has taken over, because this one was silent for too long",
                where=f"{self._client.url}/{self.key}",
                expected=f"a sign of life every {self._seconds:.0f} s",
                next_step="nothing was lost: the other process goes on, and this command may be run again after it",
            )

    def is_confirmed(self) -> bool:
        """Whether the store has answered a beat within the time to live."""
        return not self._lost and time.monotonic() - self._confirmed < self._seconds

    def release(self) -> None:
        """Stop beating, and free the lease if it is still held.

        While the store does not answer, it is left to end by itself: each request would wait as long as the one that failed.
        """
        self._ended.set()
        self._thread.join()
        with self._lock:
            if self.is_confirmed():
                self._client.swap(self.key, LeaseState("", self._state.epoch, self._state.beat).to_bytes(), self._version)

    def _keep_beating(self) -> None:
        while not self._ended.wait(self._seconds / 3):
            try:
                self._beat()
            except IndexmillError:
                continue  # nobody else can take the lease either while the store does not answer; `check` tries again
            if self._lost:
                return

    def _beat(self) -> None:
        with self._lock:
            if self._lost:
                return
            state = LeaseState(self._state.holder, self._state.epoch, self._state.beat + 1)
            started = time.monotonic()
            version = self._client.swap(self.key, state.to_bytes(), self._version)
            if version is None:
                self._lost = True
                return
            self._state, self._version, self._confirmed = state, version, started


def acquire(client: ObjectClient, key: str, holder: str, *, wait: bool) -> HeldLease:
    """Take a lease: at once when it is free, after the time to live when its holder is silent.

    Args:
        client: The store.
        key: The lease.
        holder: What this process is called in the errors of others.
        wait: Wait until the holder has released it, instead of raising BuildInProgress.
    """
    watched: tuple[int, int] | None = None
    since = time.monotonic()
    while True:
        raise_if_stopping(f"before the lease {key}")
        content = client.read(key)
        state = parse_state(content.data) if content else LeaseState("", 0, 0)
        is_abandoned = watched == (state.epoch, state.beat) and time.monotonic() - since >= get_lease_seconds()
        if not state.holder or is_abandoned:
            if taken := _take(client, key, content, LeaseState(holder, state.epoch + 1, 0)):
                return taken
            continue  # somebody else was faster
        if watched != (state.epoch, state.beat):
            if watched is not None and not wait:
                raise BuildInProgress(
                    "a build is running",
                    where=f"{client.url}/{key}",
                    got=state.holder,
                    next_step=f"wait for it to end, or stop it; the lease ends {get_lease_seconds():.0f} s after its process",
                )
            watched, since = (state.epoch, state.beat), time.monotonic()
        time.sleep(get_lease_seconds() / 20)


@contextmanager
def hold(client: ObjectClient, key: str, holder: str, *, wait: bool = False) -> Iterator[HeldLease]:
    """Hold a lease while the block runs."""
    own_lease = acquire(client, key, holder, wait=wait)
    try:
        yield own_lease
    finally:
        own_lease.release()


def is_alive(client: ObjectClient, key: str) -> bool:
    """Watch a lease for up to its time to live; return whether its holder gave a sign of life."""
    first, deadline = client.read(key), time.monotonic() + get_lease_seconds()
    while first and parse_state(first.data).holder:
        current = client.read(key)
        if current is None or current.data != first.data:
            return current is not None and bool(parse_state(current.data).holder)
        if time.monotonic() >= deadline:
            return False
        time.sleep(get_lease_seconds() / 20)
    return False


def _take(client: ObjectClient, key: str, content: ObjectContent | None, state: LeaseState) -> HeldLease | None:
    data = state.to_bytes()
    version = client.create(key, data) if content is None else client.swap(key, data, content.version)
    return HeldLease(client, key, state, version) if version is not None else None
