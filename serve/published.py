"""Open a published snapshot for search with vectors of the encoder that built it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.errors import InputError
from indexmill.storage.retention import hold_snapshot
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.shard_store import open_searcher

COLUMNS = ("item_id", "key", "label", "text", "path")


class Hit(NamedTuple):
    """One result. score: inner product (larger is better) or squared distance (smaller is better), as the snapshot's metric has it."""

    item_id: int
    score: float
    key: str


class PublishedIndex:
    """The live snapshot of an index, or the one that is named. Files are checked by digest as they are opened."""

    def __init__(self, root: Root, name: str, snapshot_id: str | None = None) -> None:
        self.root, snapshots = root, Snapshots(root, name)
        # Held until this object is gone: what is read is not removed by retention.
        self._reading = hold_snapshot(snapshots, snapshot_id)
        self.manifest = self._reading.__enter__()
        self._folder = snapshots.get_path(self.manifest.snapshot_id)

    def check_fingerprint(self, fingerprint: str) -> None:
        """Raise InputError for an encoder whose vectors would mean nothing here."""
        if fingerprint != self.manifest.fingerprint:
            raise InputError(
                "the encoder here is not the one that made this snapshot, so its answers would mean nothing",
                where=f"index {self.manifest.name}, snapshot {self.manifest.snapshot_id}",
                expected=f"fingerprint {self.manifest.fingerprint}: {self.manifest.encoder.get('libraries')}",
                got=f"fingerprint {fingerprint}",
                next_step=f"indexmill build {self.manifest.name}, or install the versions that it names",
            )

    @cached_property
    def searcher(self) -> Searcher:
        """All shards, opened when first needed."""
        return open_searcher(self.manifest.shards, self._resolve_path, self.manifest.metric, self.manifest.search.params)

    def search(self, queries: np.ndarray, k: int, *, fingerprint: str, metric: str | None = None) -> list[list[Hit]]:
        """The k best items of each query (float32 (n, dim), unit vectors for cosine), best first; fewer where there are fewer.

        Raises InputError for vectors of another encoder or length, or for another metric than the snapshot's.
        """
        self.check_fingerprint(fingerprint)
        self._fits(queries, metric)
        scores, ids = self.searcher.search(queries, min(k, self.searcher.items))
        keys = {item: row["key"] for item, row in self.items(ids.ravel().tolist()).items()}
        return [
            [Hit(item, score, keys[item]) for item, score in zip(row, line, strict=True) if item >= 0]
            for row, line in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    def items(self, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Item id -> its row (COLUMNS), for those ids that the snapshot holds."""
        wanted = ", ".join(str(item) for item in {*ids} if item >= 0) or "NULL"
        sql = f"SELECT {', '.join(COLUMNS)} FROM {parquet.scan_sql(self._folder / 'items.parquet')} WHERE item_id IN ({wanted})"
        return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in parquet.fetch_rows(sql, temp_dir=self.root.tmp)}

    def _resolve_path(self, ref: Any) -> Path:
        return self._folder / str(ref.path)

    def _fits(self, queries: np.ndarray, metric: str | None) -> None:
        asked = (queries.shape[-1], metric or self.manifest.metric)
        if asked != (self.manifest.dim, self.manifest.metric):
            raise InputError(
                "these vectors do not fit the index",
                where=f"index {self.manifest.name}, snapshot {self.manifest.snapshot_id}",
                expected=f"{self.manifest.dim} numbers a vector, metric {self.manifest.metric}",
                got=f"{asked[0]} numbers a vector, metric {asked[1]}",
                next_step="encode the queries with the snapshot's own encoder",
            )
