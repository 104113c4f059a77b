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
    """The labels of all items. Holds 12 bytes per item: the only part of an evaluation that grows with the data set."""

    def __init__(self, root: Root, embeddings: EmbeddingSet, indexed: EmbeddingSet | None = None) -> None:
        """Load the labels.

        Args:
            root: The storage root.
            embeddings: All items.
            indexed: The items that the index holds, which `count_per_label` counts; all by default.
        """
        items = parquet.scan_sql(root.file(embeddings.items))
        sql = f"SELECT DISTINCT label FROM {items} WHERE label IS NOT NULL ORDER BY 1"
        self.names = [name for (name,) in parquet.fetch_rows(sql, temp_dir=root.tmp)]
        codes = {name: code for code, name in enumerate(self.names)}
        self._load_codes(root.file(embeddings.items), embeddings.database + embeddings.query, codes)
        indexed_items = parquet.scan_sql(root.file((indexed or embeddings).items))
        counts_sql = f"SELECT label, count(*) FROM {indexed_items} WHERE side = $side AND label IS NOT NULL GROUP BY 1"
        self._counts: dict[Side, np.ndarray] = {}
        for side in ("database", "query"):
            counts = np.zeros(len(self.names), np.int64)
            for name, count in parquet.fetch_rows(counts_sql, {"side": side}, temp_dir=root.tmp):
                counts[codes[name]] = count
            self._counts[side] = counts

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return the label codes (int32, same shape) of item ids; UNLABELED for items without a label and for id -1."""
        positions = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[positions] == ids, self._codes[positions], UNLABELED)

    def count_per_label(self, side: Side) -> np.ndarray:
        """Count the items of each label on one side, int64 (labels,)."""
        return self._counts[side]

    def _load_codes(self, items: Path, count: int, codes: dict[str, int]) -> None:
        self._ids = np.empty(count, np.int64)
        self._codes = np.full(count, UNLABELED, np.int32)
        start = 0
        for batch in parquet.read_batches(items, ["item_id", "label"]):
            stop = start + batch.num_rows
            self._ids[start:stop] = batch.column("item_id").to_numpy()
            self._codes[start:stop] = [codes.get(label, UNLABELED) for label in batch.column("label").to_pylist()]
            start = stop


class DuplicateGroups:
    """The content groups of all items. Holds 16 bytes per item."""

    def __init__(self, items: Path, *, temp_dir: Path) -> None:
        """Load the groups from a table with `item_id` and `content_group`."""
        ranked = f"SELECT item_id, dense_rank() OVER (ORDER BY content_group) - 1 AS number, content_group FROM {parquet.scan_sql(items)}"
        sql = f"SELECT item_id, if(content_group IS NULL, {UNGROUPED}, number) AS number FROM ({ranked}) ORDER BY item_id"
        ids, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        with parquet.query(sql, temp_dir=temp_dir) as batches:
            for batch in batches:
                ids.append(batch.column("item_id").to_numpy())
                numbers.append(batch.column("number").to_numpy())
        self._ids, self._numbers = np.concatenate(ids), np.concatenate(numbers).astype(np.int64)

    def lookup(self, ids: np.ndarray) -> np.ndarray:
        """Return the group numbers (int64, same shape) of item ids; UNGROUPED for items without a group and for unknown ids."""
        if not len(self._ids):
            return np.full(np.shape(ids), UNGROUPED, np.int64)
        positions = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[positions] == ids, self._numbers[positions], UNGROUPED)
