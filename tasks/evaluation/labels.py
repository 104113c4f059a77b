"""Labels and duplicate groups of items as integer codes, looked up by item id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.metrics.exclusion import UNGROUPED
from indexmill.tasks.metrics.per_label import UNLABELED


class ItemLabels:
    """The labels of all items. Holds 12 bytes an item: the one thing in an evaluation that grows with the data set."""

    def __init__(self, root: Root, embeddings: EmbeddingSet, held: EmbeddingSet | None = None) -> None:
        """embeddings: all items; held: those that the index is made of, which `count` counts (by default all)."""
        items = root.file(embeddings.items)
        self.names = [
            name
            for (name,) in parquet.fetch_rows(
                f"SELECT DISTINCT label FROM {parquet.scan_sql(items)} WHERE label IS NOT NULL ORDER BY 1", temp_dir=root.tmp
            )
        ]
        codes = {name: code for code, name in enumerate(self.names)}
        self._ids = np.empty(embeddings.database + embeddings.query, np.int64)
        self._codes = np.full(len(self._ids), UNLABELED, np.int32)
        start = 0
        for batch in parquet.read_batches(items, ["item_id", "label"]):
            stop = start + batch.num_rows
            self._ids[start:stop] = batch.column("item_id").to_numpy()
            self._codes[start:stop] = [codes.get(label, UNLABELED) for label in batch.column("label").to_pylist()]
            start = stop
        indexed = parquet.scan_sql(root.file((held or embeddings).items))
        counted = f"SELECT label, count(*) FROM {indexed} WHERE side = $side AND label IS NOT NULL GROUP BY 1"
        self._counts: dict[Side, np.ndarray] = {}
        for side in ("database", "query"):
            counts = np.zeros(len(self.names), np.int64)
            for name, count in parquet.fetch_rows(counted, {"side": side}, temp_dir=root.tmp):
                counts[codes[name]] = count
            self._counts[side] = counts

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """The label codes (int32, same shape) of item ids; UNLABELLED for items without a label and for id -1."""
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[places] == ids, self._codes[places], UNLABELED)

    def count(self, side: Side) -> np.ndarray:
        """How many items of each label stand on a side, int64 (labels,)."""
        return self._counts[side]


class DuplicateGroups:
    """The content groups of all items. Holds 16 bytes an item."""

    def __init__(self, items: Path, *, temp_dir: Path) -> None:
        """items: a table with `item_id` and `content_group`. temp_dir: the folder for what DuckDB cannot hold in memory."""
        sql = f"SELECT item_id, dense_rank() OVER (ORDER BY content_group) - 1 AS number, content_group FROM {parquet.scan_sql(items)}"
        numbered = f"SELECT item_id, if(content_group IS NULL, {UNGROUPED}, number) AS number FROM ({sql}) ORDER BY item_id"
        ids, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        with parquet.query(numbered, temp_dir=temp_dir) as batches:
            for batch in batches:
                ids.append(batch.column("item_id").to_numpy())
                numbers.append(batch.column("number").to_numpy())
        self._ids, self._numbers = np.concatenate(ids), np.concatenate(numbers).astype(np.int64)

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """The group numbers (int64, same shape) of item ids; UNGROUPED for items without a group and for ids that are not here."""
        if not len(self._ids):
            return np.full(np.shape(ids), UNGROUPED, np.int64)
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[places] == ids, self._numbers[places], UNGROUPED)
