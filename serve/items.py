"""The rows of a snapshot's items, found by id in well under a millisecond."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexmill.storage import tables
from indexmill.storage.atomic import Scratch

COLUMNS = ("key", "label", "text", "path", "given_split", "side", "content_digest")
FILTERS = ("label", "key", "side", "given_split")
REMEMBERED = 8  # filters whose items are remembered: at most 8 bytes for each item and filter


class ItemTable:
    """A snapshot's items, memory-mapped. In memory are their ids alone, 8 bytes an item. (Arrow's own way to NumPy imports pandas.)

    Parquet has to be decoded from the beginning of a row group. So the table is copied once, a batch at a time, into an Arrow file, which
    is mapped and then has no name any more: it goes with the process.
    """

    def __init__(self, parquet: Path, scratch: Scratch) -> None:
        sql = f"SELECT item_id, {', '.join(COLUMNS)} FROM {tables.parquet(parquet)} ORDER BY item_id"
        with scratch.staging() as folder:
            file = folder / "items.arrow"
            with tables.query(sql, spill=folder) as batches:
                _copy(batches, file)
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
            self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ids = np.concatenate([np.from_dlpack(batch.column("item_id")) for batch in self._batches] or [np.empty(0, np.int64)])
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._remembered: dict[tuple[tuple[str, tuple[str, ...]], ...], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def rows(self, ids: Sequence[int]) -> list[dict[str, Any] | None]:
        """The row of each item (COLUMNS), None for an id that the snapshot does not have."""
        places = np.searchsorted(self._ids, ids).tolist()
        return [
            self._row(place) if place < len(self) and self._ids[place] == item else None for item, place in zip(ids, places, strict=True)
        ]

    def matching(self, where: Mapping[str, Sequence[str]]) -> np.ndarray:
        """The ids (int64, ascending) of the items that have, in every column of `where` (FILTERS), one of the values given for it."""
        key = tuple(sorted((column, tuple(sorted(values))) for column, values in where.items()))
        if (ids := self._remembered.get(key)) is None:
            ids = self._chosen(key)
            if len(self._remembered) >= REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)), None)
            self._remembered[key] = ids
        return ids

    def labels(self, most: int) -> list[str]:
        """The labels with the most items, at most so many, in alphabetical order."""
        counts: Counter[str] = Counter()
        for batch in self._batches:
            counts.update({one["values"]: one["counts"] for one in pc.value_counts(batch.column("label").drop_null()).to_pylist()})
        return sorted(label for label, _ in counts.most_common(most))

    def _chosen(self, where: tuple[tuple[str, tuple[str, ...]], ...]) -> np.ndarray:
        keep = np.ones(len(self), bool)
        for column, values in where:
            wanted = pa.array(values, pa.string())
            found = (pc.is_in(batch.column(column), wanted).cast(pa.uint8()) for batch in self._batches)
            keep &= np.concatenate([np.from_dlpack(part) for part in found]).astype(bool)
        return self._ids[keep]

    def _row(self, place: int) -> dict[str, Any]:
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        batch, row = self._batches[number], place - int(self._starts[number])
        return {column: batch.column(position)[row].as_py() for position, column in enumerate(COLUMNS, start=1)}


def _copy(batches: Any, target: Path) -> None:
    text = [pa.field(column, pa.string()) for column in COLUMNS]
    schema = pa.schema([pa.field("item_id", pa.int64()), *text])
    with pa.ipc.new_file(str(target), schema) as file:
        for batch in batches:
            file.write_batch(batch.cast(schema))
