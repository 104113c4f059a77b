"""The table of a study: one row for an encoder, an index and a setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from indexmill.storage import tables
from indexmill.storage.records import Frozen

TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class Extraction(Frozen):
    """How long the vectors took to make. All times are wall-clock.

    encoded: contents that this run encoded. seconds: of the stage, loading the model included; None where nothing was encoded.
    items_per_second: of this run, or as this device last showed it with this encoder (`remembered`); None where neither is known.
    """

    encoded: int
    seconds: float | None
    items_per_second: float | None
    remembered: bool


class Figures(Frozen):
    """One setting, measured at k = 10 in every column but `map`. Relevance is None where no query's label stands in the database.

    single_query_p50_ms, batch_queries_per_second: wall-clock, with `threads` (see `search_speed`); a batch holds `batch_size` queries.
    cpu_ms_a_query: CPU time of all threads, in batches of 256, which other work on the machine disturbs less; measured once.
    ann_recall_at_10, ann_distance_recall_at_10: against exact search, by ids and by distance. precision_at_10, recall_at_10: by label, of
    the same results. map: average precision by label, to the depth `evaluation.depth`, of a search for so many results; a graph looks
    at no fewer candidates than it is asked for, so there it looks wider.
    """

    single_query_p50_ms: float
    single_query_p95_ms: float
    batch_queries_per_second: float
    batch_size: int
    cpu_ms_a_query: float
    threads: int
    ann_recall_at_10: float
    ann_distance_recall_at_10: float
    precision_at_10: float | None
    recall_at_10: float | None
    map: float | None


class Row(Frozen):
    """index: what was asked for, factory: what that became. setting: how widely it was searched, in words and as numbers.

    build_seconds, build_cpu_seconds: training and filling, from the embedding store to files. bytes, bytes_a_vector: what a search holds
    in memory; mapped_bytes: the vectors beside it that candidates are ranked again from. on_front: no other row of the encoder has as much
    recall and more queries a second, or the reverse. best: the most queries a second at the target of recall. The rest: see `Extraction`
    and `Figures`.
    """

    encoder: str
    dim: int
    database: int
    queries: int
    index: str
    factory: str
    rerank: str
    setting: str
    nprobe: int | None
    ef_search: int | None
    candidates: int | None
    recall_target: float | None
    encoded: int
    extraction_seconds: float | None
    extraction_items_per_second: float | None
    extraction_remembered: bool
    build_seconds: float
    build_cpu_seconds: float
    single_query_p50_ms: float
    single_query_p95_ms: float
    batch_queries_per_second: float
    batch_size: int
    cpu_ms_a_query: float
    threads: int
    ann_recall_at_10: float
    ann_distance_recall_at_10: float
    precision_at_10: float | None
    recall_at_10: float | None
    map: float | None
    bytes_a_vector: float
    bytes: int
    mapped_bytes: int
    on_front: bool = False
    best: bool = False


SCHEMA = pa.schema({name: TYPES[(get_args(field.annotation) or (field.annotation,))[0]] for name, field in Row.model_fields.items()})


def marked(rows: Sequence[Row], target: float) -> list[Row]:
    """The rows of one encoder with their marks: which no other beats, and which answers quickest with at least `target` recall."""
    reaching = [row for row in rows if row.ann_recall_at_10 >= target]
    best = max(reaching, key=lambda row: row.batch_queries_per_second, default=None)
    return [row.model_copy(update={"on_front": not any(_beats(other, row) for other in rows), "best": row is best}) for row in rows]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The table as Parquet, with the types of `Row`."""
    tables.write_parquet(path, SCHEMA, [pa.RecordBatch.from_pylist([row.model_dump() for row in rows], schema=SCHEMA)])


def _beats(one: Row, other: Row) -> bool:
    ahead = (one.ann_recall_at_10, one.batch_queries_per_second)
    behind = (other.ann_recall_at_10, other.batch_queries_per_second)
    return ahead != behind and ahead[0] >= behind[0] and ahead[1] >= behind[1]
