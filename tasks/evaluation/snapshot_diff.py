"""Compare a candidate snapshot with its baseline: metrics of the same queries, their neighbors, and the items."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.metrics_file import MetricComparison, SnapshotDiff
from indexmill.tasks.evaluation.tables import STORED_NEIGHBORS
from indexmill.tasks.metrics.bootstrap import align_by_query, compare_paired
from indexmill.tasks.metrics.neighbors import churn_at

ITEM_CHANGES = ("added", "removed", "changed", "relabelled", "kept")


def count_item_changes(baseline: Path, candidate: Path, *, temp_dir: Path) -> dict[str, int]:
    """How many items were added, removed, changed (another content), relabelled (same content, another label) or kept: each item once.

    then, now: items tables with `item_id`, `content_digest` and `label`, an item a row. A renamed item is removed and added.
    """
    counted = dict(
        parquet.fetch_rows(f"SELECT change, count(*) FROM ({_item_changes_sql(baseline, candidate)}) GROUP BY 1", temp_dir=temp_dir)
    )
    return {kind: int(counted.get(kind, 0)) for kind in ITEM_CHANGES}


def _item_changes_sql(baseline: Path, candidate: Path) -> str:
    return (
        "SELECT item_id, CASE WHEN o.content_digest IS NULL THEN 'added' WHEN n.content_digest IS NULL THEN 'removed' "
        "WHEN o.content_digest <> n.content_digest THEN 'changed' WHEN o.label IS DISTINCT FROM n.label THEN 'relabelled' ELSE 'kept' END "
        f"AS change FROM {parquet.scan_sql(baseline)} o FULL JOIN {parquet.scan_sql(candidate)} n USING (item_id)"
    )


# What is told besides the measures that the gate asks for: a paired test of all would take long and help nobody.
HEADLINE_METRICS = ("map", "mrr", "ndcg_at_10", "precision_at_1", "precision_at_10", "recall_at_10", "ann_recall_at_10")


def compute_snapshot_diff(
    snapshot_id: str, baseline: tuple[Path, Path], candidate: tuple[Path, Path], rejected: int, measures: Iterable[str], *, temp_dir: Path
) -> SnapshotDiff:  # fmt: skip
    """What differs from the snapshot of that id. then, now: (per_query.parquet, items.parquet) of each.

    measures: those to compare besides HEADLINES, where both have them. rejected: how many more items are rejected now. Queries that only
    one of the two judged are left out of a measure.
    """
    wanted = dict.fromkeys((*HEADLINE_METRICS, *measures))
    left, right = (pq.ParquetFile(path).schema_arrow.names for path in (baseline[0], candidate[0]))
    common = [name for name in wanted if name in left and name in right]
    told = {name: _compare_metric(baseline[0], candidate[0], name) for name in common}
    ids, before, after = align_by_query(*_read_query_column(baseline[0], "neighbors"), *_read_query_column(candidate[0], "neighbors"))
    churn = float(churn_at(before, after, STORED_NEIGHBORS).mean()) if len(ids) else None
    changes = count_item_changes(baseline[1], candidate[1], temp_dir=temp_dir)
    return SnapshotDiff(
        snapshot_id=snapshot_id, metrics=told, churn_at_10=churn, common_queries=len(ids), items=changes, rejected=rejected
    )  # fmt: skip


def _compare_metric(baseline: Path, candidate: Path, name: str) -> MetricComparison:
    _, before, after = align_by_query(*_read_query_column(baseline, name), *_read_query_column(candidate, name))
    figures = asdict(compare_paired(before, after))
    return MetricComparison(**{key: None if isinstance(value, float) and math.isnan(value) else value for key, value in figures.items()})


def _read_query_column(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Query ids and one column; for the neighbours int64 (queries, NEIGHBOURS), -1 where there are fewer."""
    table = pq.read_table(path, columns=["item_id", name])
    if name == "neighbors":
        rows = [(row + [-1] * STORED_NEIGHBORS)[:STORED_NEIGHBORS] for row in table[name].to_pylist()]
        return table["item_id"].to_numpy(), np.array(rows, np.int64).reshape(len(rows), STORED_NEIGHBORS)
    table = table.filter(table[name].is_valid())
    return table["item_id"].to_numpy(), table[name].to_numpy()
