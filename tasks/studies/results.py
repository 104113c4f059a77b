"""The result table of a study: one row per encoder, index and setting of the search parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.records import FrozenModel

ARROW_TYPES: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class EncodeStats(FrozenModel):
    """The cost of encoding. Times are wall-clock.

    Attributes:
        encoded: Contents that this run encoded.
        seconds: Duration of the stage, including loading the model; None if nothing was encoded.
        items_per_second: Of this run, or of an earlier run on this device (`rate_from_profile`); None if neither is known.
    """

    encoded: int
    seconds: float | None
    items_per_second: float | None
    rate_from_profile: bool


class SearchMeasurements(FrozenModel):
    """Quality and speed of one setting of the search parameters, at k = 10 except for `map`.

    Attributes:
        single_query_p50_ms: Wall-clock median of single queries; see `measure_search_speed`.
        batch_queries_per_second: Wall-clock throughput in batches of `batch_size` with `threads` threads.
        cpu_ms_per_query: CPU time of all threads in batches of 256, measured once; other load on the machine affects it less.
        ann_recall_at_10: Against exact search, by ids.
        ann_distance_recall_at_10: Against exact search, by distance.
        precision_at_10: By label or by judgements, of the same results, as is `recall_at_10`; None if no query's label is in the database.
        ndcg_at_10: By judgements, of the same results; None without any.
        map: Mean average precision by label of a search to the depth `evaluation.depth`. A graph visits at least as many candidates as it
            returns, so this search is wider than one for k = 10.
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
    ndcg_at_10: float | None = None


class StudyRow(FrozenModel):
    """One index with one setting of its search parameters. The other columns are those of `EncodeStats` and `SearchMeasurements`.

    Attributes:
        params: The search parameters in words.
        build_seconds: Training and filling, from the embedding store to finished files; `build_cpu_seconds` in CPU time.
        memory_bytes: What a search holds in memory; `bytes_per_vector` is its share per vector.
        mapped_bytes: Memory-mapped vectors for re-ranking.
        is_pareto_optimal: Whether no other row of the encoder has at least the recall and the throughput, and more of one.
        best: Whether the row has the highest throughput at the recall target.
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
    ndcg_at_10: float | None = None
    is_pareto_optimal: bool = False
    best: bool = False


STUDY_SCHEMA = pa.schema(
    {name: ARROW_TYPES[(get_args(field.annotation) or (field.annotation,))[0]] for name, field in StudyRow.model_fields.items()}
)


def mark_best_rows(rows: Sequence[StudyRow], target: float) -> list[StudyRow]:
    """Mark the Pareto-optimal rows of one encoder, and the one with the highest throughput among those with at least `target` recall."""
    candidates = [row for row in rows if row.ann_recall_at_10 >= target]
    best = max(candidates, key=lambda row: row.batch_queries_per_second, default=None)
    return [
        row.model_copy(update={"is_pareto_optimal": not any(_dominates(other, row) for other in rows), "best": row is best}) for row in rows
    ]


def write_rows(path: Path, rows: Sequence[StudyRow]) -> None:
    """Write the rows as Parquet with the types of `StudyRow`."""
    parquet.write_parquet(path, STUDY_SCHEMA, [pa.RecordBatch.from_pylist([row.model_dump() for row in rows], schema=STUDY_SCHEMA)])


def _dominates(left: StudyRow, right: StudyRow) -> bool:
    left_values = (left.ann_recall_at_10, left.batch_queries_per_second)
    right_values = (right.ann_recall_at_10, right.batch_queries_per_second)
    return left_values != right_values and left_values[0] >= right_values[0] and left_values[1] >= right_values[1]
