"""Look up a snapshot's item rows by id, each in well under a millisecond."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexmill.storage import parquet
from indexmill.storage.atomic import Scratch

COLUMNS = ("key", "label", "text", "path", "given_split", "side", "content_digest")
FILTER_COLUMNS = ("label", "key", "side", "given_split")
MAX_CACHED_FILTERS = 8  # each takes at most 8 bytes per item


class ItemTable:
    """A snapshot's items, memory-mapped. Only the ids are in RAM, 8 bytes per item.

    A row of a Parquet file cannot be read without decoding its row group from the start, so the table is copied once,
    batch by batch, into an Arrow file. That file is unlinked as soon as it is mapped, so it disappears with the
    process.
    """

    def __init__(self, items_file: Path, scratch: Scratch) -> None:
        sql = f"SELECT item_id, {', '.join(COLUMNS)} FROM {parquet.scan_sql(items_file)} ORDER BY item_id"
        with scratch.staging() as folder:
            file = folder / "items.arrow"
            with parquet.query(sql, temp_dir=folder) as batches:
                _copy_to_arrow(batches, file)
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        # DLPack, because Arrow's own conversion to NumPy imports pandas.
        self._ids = np.concatenate([np.from_dlpack(batch.column("item_id")) for batch in self._batches] or [np.empty(0, np.int64)])
        self._batch_starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._filter_cache: dict[tuple[tuple[str, tuple[str, ...]], ...], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def get_rows(self, ids: Sequence[int]) -> list[dict[str, Any] | None]:
        """Return the row (`COLUMNS`) of each item, or None for an id that the snapshot does not have."""
        positions = np.searchsorted(self._ids, ids).tolist()
        return [
            self._read_row(position) if position < len(self) and self._ids[position] == item else None
            for item, position in zip(ids, positions, strict=True)
        ]

    def filter_ids(self, where: Mapping[str, Sequence[str]]) -> np.ndarray:
        """Return the ids of the items that match a filter.

        Args:
            where: Column (one of `FILTER_COLUMNS`) -> accepted values. An item must match every column.

        Returns:
            int64, ascending.
        """
        key = tuple(sorted((column, tuple(sorted(values))) for column, values in where.items()))
        if (ids := self._filter_cache.get(key)) is None:
            ids = self._find_ids(key)
            if len(self._filter_cache) >= MAX_CACHED_FILTERS:
                self._filter_cache.pop(next(iter(self._filter_cache)), None)
            self._filter_cache[key] = ids
        return ids

    def list_top_labels(self, limit: int) -> list[str]:
        """List the `limit` labels with the most items, in alphabetical order."""
        counts: Counter[str] = Counter()
        for batch in self._batches:
            counts.update({entry["values"]: entry["counts"] for entry in pc.value_counts(batch.column("label").drop_null()).to_pylist()})
        return sorted(label for label, _ in counts.most_common(limit))

    def _find_ids(self, where: tuple[tuple[str, tuple[str, ...]], ...]) -> np.ndarray:
        matches = np.ones(len(self), bool)
        for column, values in where:
            accepted = pa.array(values, pa.string())
            masks = (pc.is_in(batch.column(column), accepted).cast(pa.uint8()) for batch in self._batches)
            matches &= np.concatenate([np.from_dlpack(mask) for mask in masks]).astype(bool)
        return self._ids[matches]

    def _read_row(self, position: int) -> dict[str, Any]:
        number = int(np.searchsorted(self._batch_starts, position, side="right")) - 1
        batch, row = self._batches[number], position - int(self._batch_starts[number])
        return {column: batch.column(index)[row].as_py() for index, column in enumerate(COLUMNS, start=1)}


def _copy_to_arrow(batches: Any, target: Path) -> None:
    fields = [pa.field("item_id", pa.int64()), *(pa.field(column, pa.string()) for column in COLUMNS)]
    schema = pa.schema(fields)
    with pa.ipc.new_file(str(target), schema) as file:
        for batch in batches:
            file.write_batch(batch.cast(schema))
