"""Follow the live snapshot of an index and swap in each new one."""

from __future__ import annotations

import asyncio
import gc
import logging

from indexmill.serve.encoder import QueryEncoder
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.index import OpenIndex
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

log = logging.getLogger("indexmill.serve")


class LiveIndex:
    """One index as it is published now.

    A new snapshot is opened, checked by digest and its encoder loaded beside the old one, then takes its place by one assignment: requests
    under way end with the snapshot that they began with. One that does not open is tried again only when the pointer has moved or after
    `retry_seconds` seconds, and the old one stays. While both are open, both are in memory.
    """

    def __init__(self, root: Root, name: str, metrics: Metrics, *, poll_seconds: float = 1, retry_seconds: float = 30) -> None:
        self.name, self.error = name, ""
        self.index: OpenIndex | None = None
        self._root, self._snapshots, self._metrics = root, Snapshots(root, name), metrics
        self._poll_seconds, self._retry_seconds = poll_seconds, retry_seconds
        self._failed: tuple[str | None, float] = ("", 0)

    async def watch(self) -> None:
        """Look at the pointer again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self) -> None:
        """Open the live snapshot if it is another than the open one."""
        loop = asyncio.get_running_loop()
        current: str | None = ""
        try:
            current = await asyncio.to_thread(self._snapshots.get_live_id)
            if self.index is not None and current in (None, self.snapshot_id):
                self.error = ""
                return
            if current == self._failed[0] and loop.time() < self._failed[1]:
                return
            index = await asyncio.to_thread(self._open, current)
        except Exception as problem:  # whatever is wrong with a snapshot, the one that is open goes on answering
            self._failed, self.error = (current, loop.time() + self._retry_seconds), "the live snapshot cannot be opened"
            self._metrics.open_failures.labels(self.name).inc()
            log.warning("%s: snapshot %s cannot be opened, %s answers on: %s", self.name, current, self.snapshot_id or "none", problem)
            return
        self._swap_in(index)

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot that answers."""
        return self.index.manifest.snapshot_id if self.index else None

    def _open(self, snapshot_id: str | None) -> OpenIndex:
        try:
            index = OpenIndex(self._root, self.name, snapshot_id, encoder=self._reuse_encoder(snapshot_id))
        finally:
            self._root.close()
        index.warm_up()
        if self.index is None:
            # What libraries have made of objects by now stays: Python's collector would look through all of it again, half a second in
            # which nothing is answered.
            gc.collect()
            gc.freeze()
        return index

    def _reuse_encoder(self, snapshot_id: str | None) -> QueryEncoder | None:
        """The encoder that is loaded, where the new snapshot was made by it too."""
        old = self.index.encoder if self.index else None
        return old if old and old.fingerprint == self._snapshots.read_manifest(snapshot_id).fingerprint else None

    def _swap_in(self, index: OpenIndex) -> None:
        if self.snapshot_id:
            self._metrics.snapshot.remove(self.name, self.snapshot_id)
        self.index, self.error = index, ""
        self._metrics.snapshot.labels(self.name, index.manifest.snapshot_id).set(1)
        self._metrics.items.labels(self.name).set(index.searcher.items)
        self._metrics.snapshots_opened.labels(self.name).inc()
        log.info("%s: snapshot %s answers", self.name, index.manifest.snapshot_id)
