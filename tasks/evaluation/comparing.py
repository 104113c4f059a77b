"""Then and now: the figures of the same queries, their neighbours, and the items, in the live snapshot and in the candidate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from indexmill.storage.metrics_file import Compared, Since
from indexmill.tasks.evaluation.writing import NEIGHBOURS
from indexmill.tasks.measures.drift import churn_at, item_changes
from indexmill.tasks.measures.significance import aligned, compare

# What is told besides the measures that the gate asks for: a paired test of all would take long and help nobody.
HEADLINES = ("map", "mrr", "ndcg_at_10", "precision_at_1", "precision_at_10", "recall_at_10", "ann_recall_at_10")


def since(
    snapshot_id: str, then: tuple[Path, Path], now: tuple[Path, Path], rejected: int, measures: Iterable[str], *, spill: Path
) -> Since:  # fmt: skip
    """What differs from the snapshot of that id. then, now: (per_query.parquet, items.parquet) of each.

    measures: those to compare besides HEADLINES, where both have them. rejected: how many more items are rejected now. Queries that only
    one of the two judged are left out of a measure.
    """
    wanted = dict.fromkeys((*HEADLINES, *measures))
    left, right = (pq.ParquetFile(path).schema_arrow.names for path in (then[0], now[0]))
    common = [name for name in wanted if name in left and name in right]
    told = {name: _compared(then[0], now[0], name) for name in common}
    ids, before, after = aligned(*_columns(then[0], "neighbours"), *_columns(now[0], "neighbours"))
    churn = float(churn_at(before, after, NEIGHBOURS).mean()) if len(ids) else None
    changes = item_changes(then[1], now[1], spill=spill)
    return Since(
        snapshot_id=snapshot_id, measures=told, churn_at_10=churn, common_queries=len(ids), items=changes, rejected=rejected
    )  # fmt: skip


def _compared(then: Path, now: Path, name: str) -> Compared:
    _, before, after = aligned(*_columns(then, name), *_columns(now, name))
    figures = asdict(compare(before, after))
    return Compared(**{key: None if isinstance(value, float) and math.isnan(value) else value for key, value in figures.items()})


def _columns(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Query ids and one column; for the neighbours int64 (queries, NEIGHBOURS), -1 where there are fewer."""
    table = pq.read_table(path, columns=["item_id", name])
    if name == "neighbours":
        rows = [(row + [-1] * NEIGHBOURS)[:NEIGHBOURS] for row in table[name].to_pylist()]
        return table["item_id"].to_numpy(), np.array(rows, np.int64).reshape(len(rows), NEIGHBOURS)
    table = table.filter(table[name].is_valid())
    return table["item_id"].to_numpy(), table[name].to_numpy()
