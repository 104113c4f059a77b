"""The diff of two snapshots, paired by query."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from indexmill.tasks.evaluation.snapshot_diff import SnapshotTables, compute_snapshot_diff


def write_tables(folder: Path, rows: list[tuple[int, float | None, list[int]]], items: dict[int, str]) -> SnapshotTables:
    """Write per_query.parquet from (query, mAP, neighbors) and items.parquet from item -> content."""
    folder.mkdir()
    columns = dict(zip(("item_id", "map", "neighbors"), map(list, zip(*rows, strict=True)), strict=True))
    pl.DataFrame(columns, schema={"item_id": pl.Int64, "map": pl.Float64, "neighbors": pl.List(pl.Int64)}).write_parquet(folder / "q")
    pl.DataFrame({"item_id": list(items), "content_digest": list(items.values()), "label": [None] * len(items)}).write_parquet(folder / "i")
    return SnapshotTables(folder / "q", folder / "i")


def test_only_common_queries_count_and_items_are_counted_by_change(tmp_path: Path) -> None:
    """Queries 2 and 3 are in both snapshots; 3 is judged in only one, so mAP is compared over 2 alone, and churn over both.

    Query 2 keeps one of two neighbors, query 3 both in another order: churn (0.5 + 0) / 2. Item 12 is new, 10 gone, 11 changed.
    """
    baseline = write_tables(
        tmp_path / "baseline", [(1, 0.9, [10, 11]), (2, 0.5, [10, 11]), (3, None, [10, 11])], {10: "a", 11: "b", 13: "d"}
    )
    candidate = write_tables(
        tmp_path / "candidate", [(2, 0.75, [11, 12]), (3, 0.4, [11, 10]), (4, 0.1, [11, 12])], {11: "x", 12: "c", 13: "d"}
    )
    diff = compute_snapshot_diff("00001-x", baseline, candidate, rejected=3, metrics=["unknown_metric"], temp_dir=tmp_path)
    assert set(diff.metrics) == {"map"}
    comparison = diff.metrics["map"]
    assert (comparison.queries, comparison.baseline, comparison.candidate, comparison.difference) == (1, 0.5, 0.75, 0.25)
    assert (diff.common_queries, diff.churn_at_10) == (2, 0.25)
    assert diff.items == {"added": 1, "removed": 1, "changed": 1, "relabeled": 0, "kept": 1}
    assert (diff.snapshot_id, diff.rejected) == ("00001-x", 3)


def test_a_drop_of_every_query_is_significant_and_noise_is_not(tmp_path: Path) -> None:
    """Forty queries drop by 0.1; in another candidate as many rise as drop."""
    rows = [(n, 0.5, [1]) for n in range(40)]
    baseline = write_tables(tmp_path / "baseline", rows, {1: "a"})
    dropped = write_tables(tmp_path / "dropped", [(n, 0.4, [1]) for n in range(40)], {1: "a"})
    mixed = write_tables(tmp_path / "mixed", [(n, 0.5 + (-1) ** n / 10, [1]) for n in range(40)], {1: "a"})
    low, even = (
        compute_snapshot_diff("s", baseline, candidate, rejected=0, metrics=[], temp_dir=tmp_path).metrics["map"]
        for candidate in (dropped, mixed)
    )
    assert low.difference == pytest.approx(-0.1)
    assert (low.p_bootstrap or 0) < 0.01
    assert even.difference == pytest.approx(0)
    assert (even.p_bootstrap or 0) > 0.5


def test_without_a_common_query_nothing_is_compared(tmp_path: Path) -> None:
    """Churn and p-values are unknown, not zero."""
    baseline, candidate = (
        write_tables(tmp_path / "baseline", [(1, 0.9, [10])], {10: "a"}),
        write_tables(tmp_path / "candidate", [(2, 0.9, [10])], {10: "a"}),
    )
    diff = compute_snapshot_diff("s", baseline, candidate, rejected=0, metrics=[], temp_dir=tmp_path)
    assert diff.churn_at_10 is None
    assert (diff.metrics["map"].queries, diff.metrics["map"].difference, diff.metrics["map"].p_bootstrap) == (0, None, None)
