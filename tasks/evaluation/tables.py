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
MAX_LABEL_INTERVALS, LABEL_RESAMPLES = 1000, 1000  # labels, and resamples of each: a few milliseconds per label
SEARCH_SWEEP_SCHEMA = pa.schema(
    {
        "factory": pa.string(),
        "rerank": pa.string(),
        "nprobe": pa.int64(),
        "ef_search": pa.int64(),
        "rerank_candidates": pa.int64(),
        "recall_at_10": pa.float64(),
        "cpu_ms_per_query": pa.float64(),
        "chosen": pa.bool_(),
    }
)


def write_per_query(
    path: Path, run: RetrievalRun, judge: RelevanceJudge, relevance: RelevanceResult, ann_metrics: dict[str, np.ndarray]
) -> None:
    """Write one row per query, in order of item id, at most `evaluation.max_queries`.

    Columns: `item_id`, `label`, `relevant` (relevant items in the database), `neighbors` (the first ten results), and one column per
    metric; null where the query is not judged.
    """
    _write_parquet(path, build_per_query_table(run, judge, relevance, ann_metrics))


def join_per_query_tables(path: Path, tables: list[pa.Table]) -> None:
    """Write the rows of several sets of queries; a metric that belongs to another set is null."""
    _write_parquet(path, pa.concat_tables(tables, promote_options="default"))


def build_per_query_table(
    run: RetrievalRun,
    judge: RelevanceJudge,
    relevance: RelevanceResult,
    ann_metrics: dict[str, np.ndarray],
    *,
    prefix: str = "",
    query_set: str | None = None,
) -> pa.Table:
    """Build the table of one set of queries.

    Args:
        run: The rankings.
        judge: Provides the labels.
        relevance: The judge's result for the run.
        ann_metrics: Agreement with exact search, one float64 (queries,) array per metric.
        prefix: Precedes the names of the metrics.
        query_set: The set's name, for a column `query_set`; None for held-out items, which get no such column.
    """
    columns: dict[str, pa.Array] = {
        "item_id": pa.array(run.query_ids),
        "label": pa.array([None if code == UNLABELED else judge.labels.names[code] for code in relevance.labels], pa.string()),
        "relevant": _expand_to_all_queries(relevance.relevant.astype(np.float64), relevance.judged).cast(pa.int64()),
        "neighbors": pa.array(list(run.retrieved[:, :STORED_NEIGHBORS]), pa.list_(pa.int64())),
    }
    if query_set is not None:
        columns["query_set"] = pa.array([query_set] * len(run.query_ids), pa.string())
    columns |= {prefix + name: _expand_to_all_queries(values, relevance.judged) for name, values in relevance.metrics.items()}
    columns |= {prefix + name: pa.array(values, pa.float64(), from_pandas=True) for name, values in ann_metrics.items()}
    return pa.table(columns)


def write_per_label(path: Path, judge: RelevanceJudge, relevance: RelevanceResult) -> list[dict[str, Any]]:
    """Write one row per label that has judged queries, and return the rows.

    Columns: `label`, `queries` (judged), `database` (items of the label), the mean of each relevance metric, and `map_low` and `map_high`,
    the 95 % interval of its mAP, for the MAX_LABEL_INTERVALS labels with the most queries.
    """
    labels = relevance.labels[relevance.judged]
    codes, queries, means = average_per_label(labels, relevance.metrics)
    database = judge.labels.count_per_label("database")
    columns: dict[str, pa.Array] = {
        "label": pa.array([judge.labels.names[code] for code in codes], pa.string()),
        "queries": pa.array(queries, pa.int64()),
        "database": pa.array([int(database[code]) for code in codes], pa.int64()),
    }
    columns |= {name: pa.array(values, pa.float64()) for name, values in means.items()}
    intervals = _compute_label_intervals(labels, codes, queries, relevance.metrics.get("map", np.empty(0)))
    for name, values in zip(("map_low", "map_high"), intervals.T, strict=True):
        columns[name] = pa.array(values, pa.float64(), from_pandas=True)
    table = pa.table(columns)
    _write_parquet(path, table)
    return table.to_pylist()


def write_search_sweep(path: Path, rows: list[dict[str, Any]], factory: str, rerank: str) -> None:
    """Write the rows of the sweep, each with the factory and the re-ranking of the index."""
    _write_parquet(path, pa.Table.from_pylist([{"factory": factory, "rerank": rerank, **row} for row in rows], schema=SEARCH_SWEEP_SCHEMA))


def _compute_label_intervals(labels: np.ndarray, codes: np.ndarray, queries: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return low and high of each label's mean, float64 (labels, 2); NaN beyond MAX_LABEL_INTERVALS labels."""
    intervals = np.full((len(codes), 2), np.nan)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], codes)
    for row in np.argsort(-queries, kind="stable")[:MAX_LABEL_INTERVALS]:
        label_values = values[order[starts[row] : starts[row] + queries[row]]]
        _, low, high = bootstrap_intervals(label_values[:, None], resamples=LABEL_RESAMPLES)
        intervals[row] = low[0], high[0]
    return intervals


def _expand_to_all_queries(values: np.ndarray, judged: np.ndarray) -> pa.Array:
    """Place the judged queries' values among all queries; null for the others."""
    column = np.full(len(judged), np.nan)
    column[judged] = values
    return pa.array(column, pa.float64(), from_pandas=True)


def _write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, compression="zstd")
