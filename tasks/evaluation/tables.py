"""Tables of an evaluation: one row per query, per label, and per setting of the search parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.tasks.evaluation.relevance import RelevanceJudge, RelevanceResult
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.metrics.bootstrap import bootstrap_intervals
from indexmill.tasks.metrics.per_label import UNLABELED, average_per_label

STORED_NEIGHBORS = 10
MAX_LABEL_INTERVALS, LABEL_RESAMPLES = 1000, 1000  # of labels: some milliseconds each
SEARCH_SWEEP_SCHEMA = pa.schema(
    {"factory": pa.string(), "rerank": pa.string(), "nprobe": pa.int64(), "ef_search": pa.int64(), "rerank_candidates": pa.int64(),
     "recall_at_10": pa.float64(), "cpu_ms_per_query": pa.float64(), "chosen": pa.bool_()}
)  # fmt: skip


def write_per_query(
    path: Path, run: RetrievalRun, judge: RelevanceJudge, judged: RelevanceResult, ann_metrics: dict[str, np.ndarray]
) -> None:
    """item_id, label, relevant (items of the database that are), the first ten results, a column a measure; null where not judged.

    Ordered by item id. At most `evaluation.max_queries` rows.
    """
    columns: dict[str, pa.Array] = {
        "item_id": pa.array(run.ids),
        "label": pa.array([None if code == UNLABELED else judge.labels.names[code] for code in judged.labels], pa.string()),
        "relevant": _expand_to_all_queries(judged.relevant.astype(np.float64), judged.judged).cast(pa.int64()),
        "neighbors": pa.array(list(run.retrieved[:, :STORED_NEIGHBORS]), pa.list_(pa.int64())),
    }
    columns |= {name: _expand_to_all_queries(column, judged.judged) for name, column in judged.columns.items()}
    columns |= {name: pa.array(column, pa.float64(), from_pandas=True) for name, column in ann_metrics.items()}
    _write_parquet(path, pa.table(columns))


def write_per_label(path: Path, judge: RelevanceJudge, judged: RelevanceResult) -> list[dict[str, Any]]:
    """label, queries judged, items of the database, the mean of each relevance measure: a row a label with judged queries. Returns them.

    map_low and map_high: the 95 % interval of its mAP, for the INTERVALS labels with the most queries.
    """
    labels = judged.labels[judged.judged]
    codes, queries, means = average_per_label(labels, judged.columns)
    database = judge.labels.count("database")
    columns: dict[str, pa.Array] = {
        "label": pa.array([judge.labels.names[code] for code in codes], pa.string()),
        "queries": pa.array(queries, pa.int64()),
        "database": pa.array([int(database[code]) for code in codes], pa.int64()),
    }
    bounds = _compute_label_intervals(labels, codes, queries, judged.columns.get("map", np.empty(0)))
    ends = {name: pa.array(column, pa.float64(), from_pandas=True) for name, column in zip(("map_low", "map_high"), bounds.T, strict=True)}
    table = pa.table(columns | {name: pa.array(column, pa.float64()) for name, column in means.items()} | ends)
    _write_parquet(path, table)
    return table.to_pylist()


def write_search_sweep(path: Path, rows: list[dict[str, Any]], factory: str, rerank: str) -> None:
    """factory, rerank, and the sweep's rows."""
    _write_parquet(path, pa.Table.from_pylist([{"factory": factory, "rerank": rerank, **row} for row in rows], schema=SEARCH_SWEEP_SCHEMA))


def _compute_label_intervals(labels: np.ndarray, codes: np.ndarray, queries: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Low and high of each label's mean, float64 (labels, 2); NaN past INTERVALS."""
    bounds = np.full((len(codes), 2), np.nan)
    order = np.argsort(labels, kind="stable")
    start = np.searchsorted(labels[order], codes)
    for row in np.argsort(-queries, kind="stable")[:MAX_LABEL_INTERVALS]:
        mine = values[order[start[row] : start[row] + queries[row]]]
        _, low, high = bootstrap_intervals(mine[:, None], resamples=LABEL_RESAMPLES)
        bounds[row] = low[0], high[0]
    return bounds


def _expand_to_all_queries(values: np.ndarray, judged: np.ndarray) -> pa.Array:
    """A value for each judged query, null for the others."""
    column = np.full(len(judged), np.nan)
    column[judged] = values
    return pa.array(column, pa.float64(), from_pandas=True)


def _write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")
