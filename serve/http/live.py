"""Follow the live snapshot of an index and swap in each new one."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading

from indexmill.serve.encoder import QueryEncoder, get_query_identity
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.index import OpenIndex
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

log = logging.getLogger("indexmill.serve")

# torch and its libraries fail when two threads import them or load models at the same time.
_OPENING = threading.Lock()


class LiveIndex:
    """The live snapshot of one index.

    A new snapshot is opened, verified and warmed up beside the old one, which one assignment then replaces;
    requests in progress finish on the snapshot that they started with. Until those are done, both snapshots are in
    RAM. A snapshot that cannot be opened leaves the old one in service; it is tried again after `retry_seconds`, or
    as soon as the pointer moves.
    """

    def __init__(self, root: Root, name: str, metrics: Metrics, *, poll_seconds: float = 1, retry_seconds: float = 30) -> None:
        self.name, self.error = name, ""
        self.index: OpenIndex | None = None
        self._root, self._snapshots, self._metrics = root, Snapshots(root, name), metrics
        self._poll_seconds, self._retry_seconds = poll_seconds, retry_seconds
        self._failed_id: str | None = ""
        self._retry_at = 0.0

    async def watch(self) -> None:
        """Poll the pointer until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self) -> None:
        """Open the live snapshot if it is not the one being served."""
        loop = asyncio.get_running_loop()
        live_id: str | None = ""
        try:
            live_id = await asyncio.to_thread(self._snapshots.get_live_id)
            if self.index is not None and live_id in (None, self.snapshot_id):
                self.error = ""
                return
            if live_id == self._failed_id and loop.time() < self._retry_at:
                return
            index = await asyncio.to_thread(self._open, live_id)
        except Exception as error:  # any error in the new snapshot leaves the old one in service
            self._failed_id, self._retry_at = live_id, loop.time() + self._retry_seconds
            self.error = "the live snapshot cannot be opened"
            self._metrics.open_failures.labels(self.name).inc()
            log.warning("%s: cannot open snapshot %s, still serving %s: %s", self.name, live_id, self.snapshot_id or "none", error)
            return
        self._swap_in(index)

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot being served."""
        return self.index.manifest.snapshot_id if self.index else None

    def _open(self, snapshot_id: str | None) -> OpenIndex:
        with _OPENING:
            try:
                index = OpenIndex(self._root, self.name, snapshot_id, encoder=self._reuse_encoder(snapshot_id))
            finally:
                self._root.close()
            index.warm_up()
        if self.index is None:
            # The objects that libraries have created so far live as long as the process. Without this, every full
            # garbage collection scans them all, and nothing is answered for half a second.
            gc.collect()
            gc.freeze()
        return index

    def _reuse_encoder(self, snapshot_id: str | None) -> QueryEncoder | None:
        """Return the loaded encoder if it also built the new snapshot."""
        encoder = self.index.encoder if self.index else None
        manifest = self._snapshots.read_manifest(snapshot_id)
        return encoder if encoder and encoder.identity == get_query_identity(manifest) else None

    def _swap_in(self, index: OpenIndex) -> None:
        # The old index is not closed here: requests in progress still use it, and it is released with the last of them.
        if self.snapshot_id:
            self._metrics.snapshot_info.remove(self.name, self.snapshot_id)
        self.index, self.error = index, ""
        self._metrics.snapshot_info.labels(self.name, index.manifest.snapshot_id).set(1)
        self._metrics.items.labels(self.name).set(index.manifest.items)
        self._metrics.snapshots_opened.labels(self.name).inc()
        log.info("%s: serving snapshot %s", self.name, index.manifest.snapshot_id)
