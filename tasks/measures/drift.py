"""What moved between two snapshots: the neighbours of the same queries, and the items themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexmill.storage import tables
from indexmill.tasks.measures.neighbours import in_common

KINDS = ("added", "removed", "changed", "relabelled", "kept")


def churn_at(then: np.ndarray, now: np.ndarray, k: int = 10) -> np.ndarray:
    """Neighbour churn@k = 1 - |first k then and first k now| / k, float64 (queries,). 0: the same items in any order; 1: none in common.

    then, now: item ids int64 (queries, >= k), row i the same query (`significance.aligned` finds the common ones), ids distinct in a row,
    -1 for an empty place. The denominator is the longer of the two lists where both are shorter than k; two empty lists are no churn.
    """
    left, right = then[:, :k], now[:, :k]
    longest = np.maximum((left >= 0).sum(axis=1), (right >= 0).sum(axis=1))
    return 1 - in_common(left, right) / np.maximum(longest, 1) - (longest == 0)


def item_changes(then: Path, now: Path, *, spill: Path) -> dict[str, int]:
    """How many items were added, removed, changed (another content), relabelled (same content, another label) or kept: each item once.

    then, now: items tables with `item_id`, `content_digest` and `label`, an item a row. A renamed item is removed and added.
    """
    counted = dict(tables.rows(f"SELECT change, count(*) FROM ({_changes(then, now)}) GROUP BY 1", spill=spill))
    return {kind: int(counted.get(kind, 0)) for kind in KINDS}


def changed_items(then: Path, now: Path, kind: str, *, limit: int, spill: Path) -> list[int]:
    """The first item ids of one of KINDS but `kept`, ascending, at most `limit`."""
    sql = f"SELECT item_id FROM ({_changes(then, now)}) WHERE change = $kind ORDER BY 1 LIMIT {limit:d}"
    return [item for (item,) in tables.rows(sql, {"kind": kind}, spill=spill)]


def _changes(then: Path, now: Path) -> str:
    return (
        "SELECT item_id, CASE WHEN o.content_digest IS NULL THEN 'added' WHEN n.content_digest IS NULL THEN 'removed' "
        "WHEN o.content_digest <> n.content_digest THEN 'changed' WHEN o.label IS DISTINCT FROM n.label THEN 'relabelled' ELSE 'kept' END "
        f"AS change FROM {tables.parquet(then)} o FULL JOIN {tables.parquet(now)} n USING (item_id)"
    )
