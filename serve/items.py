"""The rows of a snapshot's items, found by id in well under a millisecond."""

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
MAX_CACHED_FILTERS = 8  # filters whose items are remembered: at most 8 bytes for each item and filter


class ItemTable:
    """A snapshot's items, memory-mapped. In memory are their ids alone, 8 bytes an item. (Arrow's own way to NumPy imports pandas.)

    Parquet has to be decoded from the beginning of a row group. So the table is copied once, a batch at a time, into an Arrow file, which
    is mapped and then has no name any more: it goes with the process.
    """

    def __init__(self, scan_sql: Path, scratch: Scratch) -> None:
        sql = f"SELECT item_id, {', '.join(COLUMNS)} FROM {parquet.scan_sql(scan_sql)} ORDER BY item_id"
        with scratch.staging() as folder:
            file = folder / "items.arrow"
            with parquet.query(sql, temp_dir=folder) as batches:
                _copy_to_arrow(batches, file)
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ids = np.concatenate([np.from_dlpack(batch.column("item_id")) for batch in self._batches] or [np.empty(0, np.int64)])
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._filter_cache: dict[tuple[tuple[str, tuple[str, ...]], ...], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any] | None]:
        """The row of each item (COLUMNS), None for an id that the snapshot does not have."""
        row_positions = np.searchsorted(self._ids, ids).tolist()
        return [
            self._read_row(row_position) if row_position < len(self) and self._ids[row_position] == item else None
            for item, row_position in zip(ids, row_positions, strict=True)
        ]

    def filter_ids(self, where: Mapping[str, Sequence[str]]) -> np.ndarray:
        """The ids (int64, ascending) of the items that have, in every column of `where` (FILTERS), one of the values given for it."""
        key = tuple(sorted((column, tuple(sorted(values))) for column, values in where.items()))
        if (ids := self._filter_cache.get(key)) is None:
            ids = self._find_ids(key)
            if len(self._filter_cache) >= MAX_CACHED_FILTERS:
                self._filter_cache.pop(next(iter(self._filter_cache)), None)
            self._filter_cache[key] = ids
        return ids

    def labels(self, most: int) -> list[str]:
        """The labels with the most items, at most so many, in alphabetical order."""
        counts: Counter[str] = Counter()
        for batch in self._batches:
            counts.update({one["values"]: one["counts"] for one in pc.value_counts(batch.column("label").drop_null()).to_pylist()})
        return sorted(label for label, _ in counts.most_common(most))

    def _find_ids(self, where: tuple[tuple[str, tuple[str, ...]], ...]) -> np.ndarray:
        keep = np.ones(len(self), bool)
        for column, values in where:
            wanted = pa.array(values, pa.string())
            found = (pc.is_in(batch.column(column), wanted).cast(pa.uint8()) for batch in self._batches)
            keep &= np.concatenate([np.from_dlpack(part) for part in found]).astype(bool)
        return self._ids[keep]

    def _read_row(self, row_position: int) -> dict[str, Any]:
        number = int(np.searchsorted(self._starts, row_position, side="right")) - 1
        batch, row = self._batches[number], row_position - int(self._starts[number])
        return {column: batch.column(position)[row].as_py() for position, column in enumerate(COLUMNS, start=1)}


def _copy_to_arrow(batches: Any, target: Path) -> None:
    text = [pa.field(column, pa.string()) for column in COLUMNS]
    schema = pa.schema([pa.field("item_id", pa.int64()), *text])
    with pa.ipc.new_file(str(target), schema) as file:
        for batch in batches:
            file.write_batch(batch.cast(schema))
