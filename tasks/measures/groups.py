"""Duplicate groups as numbers, looked up by item id."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexmill.storage import tables
from indexmill.tasks.measures.exclusion import UNGROUPED


class Groups:
    """The content groups of all items. Holds 16 bytes an item."""

    def __init__(self, items: Path, *, spill: Path) -> None:
        """items: a table with `item_id` and `content_group`. spill: the folder for what DuckDB cannot hold in memory."""
        sql = f"SELECT item_id, dense_rank() OVER (ORDER BY content_group) - 1 AS number, content_group FROM {tables.parquet(items)}"
        numbered = f"SELECT item_id, if(content_group IS NULL, {UNGROUPED}, number) AS number FROM ({sql}) ORDER BY item_id"
        ids, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        with tables.query(numbered, spill=spill) as batches:
            for batch in batches:
                ids.append(batch.column("item_id").to_numpy())
                numbers.append(batch.column("number").to_numpy())
        self._ids, self._numbers = np.concatenate(ids), np.concatenate(numbers).astype(np.int64)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The group numbers (int64, same shape) of item ids; UNGROUPED for items without a group and for ids that are not here."""
        if not len(self._ids):
            return np.full(np.shape(ids), UNGROUPED, np.int64)
        places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return np.where(self._ids[places] == ids, self._numbers[places], UNGROUPED)
