"""The result table of a study: one row per encoder, index and search setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.records import FrozenModel

ARROW_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class EncodeStats(FrozenModel):
    """How long the vectors took to make. All times are wall-clock.

    encoded: contents that this run encoded. seconds: of the stage, loading the model included; None where nothing was encoded.
    items_per_second: of this run, or as this device last showed it with this encoder (`rate_from_profile`); None where neither is known.
    """

    encoded: int
    seconds: float | None
    items_per_second: float | None
    rate_from_profile: bool


class SearchMeasurements(FrozenModel):
    """One setting, measured at k = 10 in every column but `map`. Relevance is None where no query's label stands in the database.

    single_query_p50_ms, batch_queries_per_second: wall-clock, with `threads` (see `measure_search_speed`); a batch holds `batch_size` queries.
    cpu_ms_a_query: CPU time of all threads, in batches of 256, which other work on the machine disturbs less; measured once.
    ann_recall_at_10, ann_distance_recall_at_10: against exact search, by ids and by distance. precision_at_10, recall_at_10: by label, of
    the same results. map: average precision by label, to the depth `evaluation.depth`, of a search for so many results; a graph looks
    at no fewer candidates than it is asked for, so there it looks wider.
    """

    single_query_p50_ms: float
    single_query_p95_ms: float
    batch_queries_per_second: float
    batch_size: int
    cpu_ms_per_query: float
    threads: int
    ann_recall_at_10: float
    ann_distance_recall_at_10: float
    precision_at_10: float | None
    recall_at_10: float | None
    map: float | None


class StudyRow(FrozenModel):
    """index: what was asked for, factory: what that became. setting: how widely it was searched, in words and as numbers.

    build_seconds, build_cpu_seconds: training and filling, from the embedding store to files. bytes, bytes_a_vector: what a search holds
    in memory; mapped_bytes: the vectors beside it that candidates are ranked again from. on_front: no other row of the encoder has as much
    recall and more queries a second, or the reverse. best: the most queries a second at the target of recall. The rest: see `EncodeStats`
    and `SearchMeasurements`.
    """

    encoder: str
    dim: int
    database: int
    queries: int
    index: str
    factory: str
    rerank: str
    params: str
    nprobe: int | None
    ef_search: int | None
    rerank_candidates: int | None
    recall_target: float | None
    encoded: int
    encode_seconds: float | None
    encode_items_per_second: float | None
    encode_rate_from_profile: bool
    build_seconds: float
    build_cpu_seconds: float
    single_query_p50_ms: float
    single_query_p95_ms: float
    batch_queries_per_second: float
    batch_size: int
    cpu_ms_per_query: float
    threads: int
    ann_recall_at_10: float
    ann_distance_recall_at_10: float
    precision_at_10: float | None
    recall_at_10: float | None
    map: float | None
    bytes_per_vector: float
    memory_bytes: int
    mapped_bytes: int
    is_pareto_optimal: bool = False
    best: bool = False


STUDY_SCHEMA = pa.schema(
    {name: ARROW_TYPES[(get_args(field.annotation) or (field.annotation,))[0]] for name, field in StudyRow.model_fields.items()}
)


def mark_best_rows(rows: Sequence[StudyRow], target: float) -> list[StudyRow]:
    """The rows of one encoder with their marks: which no other beats, and which answers quickest with at least `target` recall."""
    reaching = [row for row in rows if row.ann_recall_at_10 >= target]
    best = max(reaching, key=lambda row: row.batch_queries_per_second, default=None)
    return [
        row.model_copy(update={"is_pareto_optimal": not any(_dominates(other, row) for other in rows), "best": row is best}) for row in rows
    ]


def write_rows(path: Path, rows: Sequence[StudyRow]) -> None:
    """The table as Parquet, with the types of `StudyRow`."""
    parquet.write_parquet(path, STUDY_SCHEMA, [pa.RecordBatch.from_pylist([row.model_dump() for row in rows], schema=STUDY_SCHEMA)])


def _dominates(one: StudyRow, other: StudyRow) -> bool:
    ahead = (one.ann_recall_at_10, one.batch_queries_per_second)
    behind = (other.ann_recall_at_10, other.batch_queries_per_second)
    return ahead != behind and ahead[0] >= behind[0] and ahead[1] >= behind[1]
