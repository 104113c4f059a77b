"""The live snapshot of an index, followed as new ones are published."""

from __future__ import annotations

import asyncio
import gc
import logging

from indexmill.serve.encoding import QueryEncoder
from indexmill.serve.metrics import Metrics
from indexmill.serve.opening import OpenIndex
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

log = logging.getLogger("indexmill.serve")


class LiveIndex:
    """One index as it is published now.

    A new snapshot is opened, checked by digest and its encoder loaded beside the old one, then takes its place by one assignment: requests
    under way end with the snapshot that they began with. One that does not open is tried again only when the pointer has moved or after
    `again` seconds, and the old one stays. While both are open, both are in memory.
    """

    def __init__(self, root: Root, name: str, metrics: Metrics, *, every: float = 1, again: float = 30) -> None:
        self.name, self.trouble = name, ""
        self.index: OpenIndex | None = None
        self._root, self._snapshots, self._metrics = root, Snapshots(root, name), metrics
        self._every, self._again = every, again
        self._refused: tuple[str | None, float] = ("", 0)

    async def follow(self) -> None:
        """Look at the pointer again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._every)

    async def refresh(self) -> None:
        """Open the live snapshot if it is another than the open one."""
        loop = asyncio.get_running_loop()
        current: str | None = ""
        try:
            current = await asyncio.to_thread(self._snapshots.current)
            if self.index is not None and current in (None, self.snapshot_id):
                self.trouble = ""
                return
            if current == self._refused[0] and loop.time() < self._refused[1]:
                return
            index = await asyncio.to_thread(self._open, current)
        except Exception as problem:  # whatever is wrong with a snapshot, the one that is open goes on answering
            self._refused, self.trouble = (current, loop.time() + self._again), "the live snapshot cannot be opened"
            self._metrics.refused.labels(self.name).inc()
            log.warning("%s: snapshot %s cannot be opened, %s answers on: %s", self.name, current, self.snapshot_id or "none", problem)
            return
        self._take(index)

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot that answers."""
        return self.index.manifest.snapshot_id if self.index else None

    def _open(self, snapshot_id: str | None) -> OpenIndex:
        try:
            index = OpenIndex(self._root, self.name, snapshot_id, encoder=self._encoder_of(snapshot_id))
        finally:
            self._root.close()
        index.warm()
        if self.index is None:
            # What libraries have made of objects by now stays: Python's collector would look through all of it again, half a second in
            # which nothing is answered.
            gc.collect()
            gc.freeze()
        return index

    def _encoder_of(self, snapshot_id: str | None) -> QueryEncoder | None:
        """The encoder that is loaded, where the new snapshot was made by it too."""
        old = self.index.encoder if self.index else None
        return old if old and old.fingerprint == self._snapshots.manifest(snapshot_id).fingerprint else None

    def _take(self, index: OpenIndex) -> None:
        if self.snapshot_id:
            self._metrics.snapshot.remove(self.name, self.snapshot_id)
        self.index, self.trouble = index, ""
        self._metrics.snapshot.labels(self.name, index.manifest.snapshot_id).set(1)
        self._metrics.items.labels(self.name).set(index.searcher.items)
        self._metrics.swaps.labels(self.name).inc()
        log.info("%s: snapshot %s answers", self.name, index.manifest.snapshot_id)
