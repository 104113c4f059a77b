"""Labels as numbers, looked up by item id."""

from __future__ import annotations

import numpy as np

from indexmill.storage import tables
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root

UNLABELLED = -1


class Labels:
    """The labels of all items. Holds 12 bytes an item: the one thing in an evaluation that grows with the data set."""

    def __init__(self, root: Root, embeddings: EmbeddingSet, held: EmbeddingSet | None = None) -> None:
        """embeddings: all items; held: those that the index is made of, which `count` counts (by default all)."""
        items = root.file(embeddings.items)
        self.names = [
            name
            for (name,) in tables.rows(
                f"SELECT DISTINCT label FROM {tables.parquet(items)} WHERE label IS NOT NULL ORDER BY 1", spill=root.tmp
            )
        ]
        codes = {name: code for code, name in enumerate(self.names)}
        self._ids = np.empty(embeddings.database + embeddings.query, np.int64)
        self._codes = np.full(len(self._ids), UNLABELLED, np.int32)
        start = 0
        for batch in tables.read_batches(items, ["item_id", "label"]):
            stop = start + batch.num_rows
            self._ids[start:stop] = batch.column("item_id").to_numpy()
            self._codes[start:stop] = [codes.get(label, UNLABELLED) for label in batch.column("label").to_pylist()]
            start = stop
        indexed = tables.parquet(root.file((held or embeddings).items))
        counted = f"SELECT label, count(*) FROM {indexed} WHERE side = $side AND label IS NOT NULL GROUP BY 1"
        self._counts: dict[Side, np.ndarray] = {}
        for side in ("database", "query"):
            counts = np.zeros(len(self.names), np.int64)
            for name, count in tables.rows(counted, {"side": side}, spill=root.tmp):
                counts[codes[name]] = count
            self._counts[side] = counts

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The label codes (int32, same shape) of item ids; UNLABELLED for items without a label and for id -1."""
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[places] == ids, self._codes[places], UNLABELLED)

    def count(self, side: Side) -> np.ndarray:
        """How many items of each label stand on a side, int64 (labels,)."""
        return self._counts[side]
