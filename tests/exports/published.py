"""Published snapshots of drawn vectors, without an encoder: inserted, replaced and deleted between nights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.configs.exports import ExportConfig
from indexmill.configs.models import IndexConfig
from indexmill.storage.index_records import SearchParams, TunedIndex
from indexmill.storage.items_table import SIDED_COLUMNS
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.exports.run import ExportResult, export_snapshot
from indexmill.tasks.indexing.shard_store import name_snapshot_files, with_snapshot_paths
from tests.indexing.nightly import Database, run_build

DIM = 24
NAME = "drawn-vectors"
TEXTS = ("plain", "line\nbreak", "ünïcode 'quoted' \"twice\"", "tab\tand \\N", "", None)
TUNED = TunedIndex(
    digest="t", files=(), shards="s", params=SearchParams(nprobe=8), target=None, met=None, recall=None, recall_bound=None,
    cpu_ms_per_query=None, latency_met=None, reason="as configured",
)  # fmt: skip


class Nights:
    """An index whose items change from snapshot to snapshot.

    Attributes:
        database: The items; `labels` has those that are not the default.
    """

    def __init__(self, root: Root, *, metric: str = "cosine", factory: str = "Flat", items: int = 300) -> None:
        self.root, self.labels = root, dict[int, str | None]()
        self.config = IndexConfig.model_validate({"factory": factory, "metric": metric, "shards": 2})
        self.database = Database(root, DIM)
        self.snapshots = Snapshots(root, NAME)
        self.insert(items - items // 3)
        self.insert(items // 3)  # another part

    def insert(self, count: int) -> None:
        self.database.insert(self.draw(count))

    def replace(self, count: int) -> None:
        rows = self.database.draw_rows(count)
        self.database.replace(rows, self.draw(count))

    def relabel(self, count: int) -> None:
        self.labels |= dict.fromkeys(self.database.ids[self.database.draw_rows(count)].tolist(), "another label")

    def delete(self, count: int) -> None:
        self.database.delete(self.database.draw_rows(count))

    def draw(self, count: int) -> np.ndarray:
        vectors = self.database.random.standard_normal((count, DIM)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self.config.metric == "cosine" else vectors

    def publish(self, table: pa.Table | None = None, table_name: str = "items.parquet", **changes: Any) -> Manifest:
        """Publish what there is now.

        Args:
            table: Another table than that of `make_items`.
            table_name: Its name in the snapshot.
            changes: Changes to the manifest.
        """
        _, built = run_build(self.root, NAME, self.database, self.config)
        sources = {name: ref for number, shard in enumerate(built.shards) for name, ref in name_snapshot_files(shard, number).items()}
        number = len(self.snapshots.list_ids()) + 1
        sources[table_name] = self._write_table(self.make_items() if table is None else table, number)
        count = len(self.database.ids)
        values = {
            "name": NAME, "snapshot_id": f"{number:05d}-{number:010x}", "parent": None, "created_at": "2026-01-01T00:00:00+00:00",
            "content": f"{number:064x}", "config": {"index": self.config.model_dump(mode="json"), "encoder": {"normalize": True}},
            "modality": "text", "image_root": None, "index_modality": "text",
            "embedding_stores": {self.database.store.folder.name: table_name}, "truncated": 0, "search": TUNED, "fingerprint": "f",
            "encoder": {}, "datasets": {}, "factory": self.config.factory, "metric": self.config.metric, "dim": DIM, "items": count,
            "database": count, "query": 0, "rejected": 0, "split": {}, "metrics": {}, "timings": {},
            "shards": tuple(with_snapshot_paths(shard, position) for position, shard in enumerate(built.shards)),
            "files": tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items()), "pool_files": (),
            "verdict": "published", "failed_rules": (), "force_reason": None, "versions": {}, "threads": 1,
        }  # fmt: skip
        manifest = Manifest(**{**values, **changes})
        self.snapshots.assemble(manifest, sources)
        self.snapshots.publish(manifest.snapshot_id)
        return self.snapshots.read_manifest()

    def make_items(self) -> pa.Table:
        """The table of items, by id: keys that differ, and labels and texts that do not."""
        order = np.argsort(self.database.ids)
        ids = self.database.ids[order].tolist()
        columns = {
            "item_id": ids,
            "key": [f"item {item}" for item in ids],
            "label": [self.labels.get(item, f"label {item % 3}" if item % 4 else None) for item in ids],
            "text": [TEXTS[item % len(TEXTS)] for item in ids],
            "path": [None] * len(ids),
            "given_split": [None] * len(ids),
            "content_digest": self.database.digests[order].tolist(),
            "content_group": ids,
            "side": ["database"] * len(ids),
        }
        return pa.table({name: pa.array(columns[name]).cast(kind) for name, kind in SIDED_COLUMNS.items()})

    def export(self, to: object, export_format: str = "parquet", table: str | None = None, snapshot: str | None = None) -> ExportResult:
        config = ExportConfig.model_validate({"format": export_format, "to": str(to), "table": table})
        return export_snapshot(self.root, NAME, config, snapshot)

    def find_neighbors(self, queries: np.ndarray, k: int = 10) -> list[list[int]]:
        """Exact search, in float64: the ids of the k best items of each query."""
        vectors, queries = self.database.vectors.astype(np.float64), queries.astype(np.float64)
        is_l2 = self.config.metric == "l2"
        distances = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2) if is_l2 else -queries @ vectors.T
        return self.database.ids[np.argsort(distances, axis=1)[:, :k]].tolist()

    def _write_table(self, table: pa.Table, number: int) -> FileRef:
        path = self.root.path / "items" / f"table-{number}.parquet"
        pq.write_table(table, path)
        return self.root.make_ref(path)
