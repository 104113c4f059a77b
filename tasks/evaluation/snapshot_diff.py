"""Compare a candidate snapshot with its baseline: metrics of the same queries, their neighbors, and the items."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.metrics_file import MetricComparison, SnapshotDiff
from indexmill.tasks.evaluation.tables import STORED_NEIGHBORS
from indexmill.tasks.metrics.bootstrap import align_by_query, compare_paired
from indexmill.tasks.metrics.neighbors import churn_at

ITEM_CHANGES = ("added", "removed", "changed", "relabeled", "kept")
# Compared besides the metrics that the gate names. A paired test of every metric would take long and hide the important ones.
HEADLINE_METRICS = ("map", "mrr", "ndcg_at_10", "precision_at_1", "precision_at_10", "recall_at_10", "ann_recall_at_10")

SET_METRICS = ("/map", "/ndcg_at_10")  # of further sets of queries


class SnapshotTables(NamedTuple):
    """Two Parquet files of one snapshot: `per_query.parquet` and `items.parquet`."""

    per_query: Path
    items: Path


def count_item_changes(baseline: Path, candidate: Path, *, temp_dir: Path) -> dict[str, int]:
    """Count the items that were added, removed, changed (another content), relabeled (same content, another label) or kept.

    Both are items tables with one row per item: `item_id`, `content_digest`, `label`. A renamed item counts as removed and added.
    """
    item_changes = (
        "SELECT CASE WHEN b.content_digest IS NULL THEN 'added' WHEN c.content_digest IS NULL THEN 'removed' "
        "WHEN b.content_digest <> c.content_digest THEN 'changed' WHEN b.label IS DISTINCT FROM c.label THEN 'relabeled' ELSE 'kept' END "
        f"AS change FROM {parquet.scan_sql(baseline)} b FULL JOIN {parquet.scan_sql(candidate)} c USING (item_id)"
    )
    counts = dict(parquet.fetch_rows(f"SELECT change, count(*) FROM ({item_changes}) GROUP BY 1", temp_dir=temp_dir))
    return {change: int(counts.get(change, 0)) for change in ITEM_CHANGES}


def compute_snapshot_diff(
    baseline_id: str, baseline: SnapshotTables, candidate: SnapshotTables, *, rejected: int, metrics: Iterable[str], temp_dir: Path
) -> SnapshotDiff:
    """Compare a candidate with its baseline: metrics by paired tests, churn of the first results, and items.

    Queries that only one of the two judged are left out of a metric.

    Args:
        baseline_id: The baseline's snapshot id.
        baseline: Its tables.
        candidate: The candidate's tables.
        rejected: How many more items the candidate rejects.
        metrics: Metrics to compare in addition to HEADLINE_METRICS and SET_METRICS, where both tables have them.
        temp_dir: Where DuckDB may write temporary files.
    """
    baseline_columns, candidate_columns = (pq.ParquetFile(tables.per_query).schema_arrow.names for tables in (baseline, candidate))
    of_sets = [name for name in candidate_columns if name.endswith(SET_METRICS)]
    names = dict.fromkeys((*HEADLINE_METRICS, *of_sets, *metrics))
    common = [name for name in names if name in baseline_columns and name in candidate_columns]
    query_ids, before, after = align_by_query(
        *_read_query_column(baseline.per_query, "neighbors"), *_read_query_column(candidate.per_query, "neighbors")
    )
    return SnapshotDiff(
        snapshot_id=baseline_id,
        metrics={name: _compare_metric(baseline.per_query, candidate.per_query, name) for name in common},
        churn_at_10=float(churn_at(before, after, STORED_NEIGHBORS).mean()) if len(query_ids) else None,
        common_queries=len(query_ids),
        items=count_item_changes(baseline.items, candidate.items, temp_dir=temp_dir),
        rejected=rejected,
    )


def _compare_metric(baseline: Path, candidate: Path, name: str) -> MetricComparison:
    _, before, after = align_by_query(*_read_query_column(baseline, name), *_read_query_column(candidate, name))
    values = asdict(compare_paired(before, after))
    return MetricComparison(**{key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()})


def _read_query_column(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read query ids and one column without nulls; `neighbors` as int64 (queries, STORED_NEIGHBORS), -1 where there are fewer."""
    table = pq.read_table(path, columns=["item_id", name])
    if name == "neighbors":
        rows = [(row + [-1] * STORED_NEIGHBORS)[:STORED_NEIGHBORS] for row in table[name].to_pylist()]
        return table["item_id"].to_numpy(), np.array(rows, np.int64).reshape(len(rows), STORED_NEIGHBORS)
    table = table.filter(table[name].is_valid())
    return table["item_id"].to_numpy(), table[name].to_numpy()
