"""Two snapshots compared: paired by query, whatever else came or went."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from indexmill.tasks.evaluation.snapshot_diff import compute_snapshot_diff


def written(folder: Path, rows: list[tuple[int, float | None, list[int]]], items: dict[int, str]) -> tuple[Path, Path]:
    """per_query.parquet of (query, mAP, neighbours) and items.parquet of item -> content."""
    folder.mkdir()
    columns = dict(zip(("item_id", "map", "neighbors"), map(list, zip(*rows, strict=True)), strict=True))
    pl.DataFrame(columns, schema={"item_id": pl.Int64, "map": pl.Float64, "neighbors": pl.List(pl.Int64)}).write_parquet(folder / "q")
    pl.DataFrame({"item_id": list(items), "content_digest": list(items.values()), "label": [None] * len(items)}).write_parquet(folder / "i")
    return folder / "q", folder / "i"


def test_only_common_queries_count_and_items_are_told_by_kind(tmp_path: Path) -> None:
    """Queries 2 and 3 were asked twice; 3 was judged only once, so mAP rests on 2 alone, and churn on both.

    Query 2 keeps one of two neighbours, query 3 both in another order: churn (0.5 + 0) / 2. Item 12 is new, 10 gone, 11 changed.
    """
    baseline = written(tmp_path / "then", [(1, 0.9, [10, 11]), (2, 0.5, [10, 11]), (3, None, [10, 11])], {10: "a", 11: "b", 13: "d"})
    candidate = written(tmp_path / "now", [(2, 0.75, [11, 12]), (3, 0.4, [11, 10]), (4, 0.1, [11, 12])], {11: "x", 12: "c", 13: "d"})
    found = compute_snapshot_diff("00001-x", baseline, candidate, 3, ["nobody_has_this"], temp_dir=tmp_path)
    assert set(found.metrics) == {"map"}
    told = found.metrics["map"]
    assert (told.queries, told.baseline, told.candidate, told.difference) == (1, 0.5, 0.75, 0.25)
    assert (found.common_queries, found.churn_at_10) == (2, 0.25)
    assert found.items == {"added": 1, "removed": 1, "changed": 1, "relabelled": 0, "kept": 1}
    assert (found.snapshot_id, found.rejected) == ("00001-x", 3)


def test_a_fall_of_every_query_is_significant_and_noise_is_not(tmp_path: Path) -> None:
    """Forty queries fall by a tenth; then as many rise as fall."""
    rows = [(n, 0.5, [1]) for n in range(40)]
    baseline = written(tmp_path / "then", rows, {1: "a"})
    fallen = written(tmp_path / "fallen", [(n, 0.4, [1]) for n in range(40)], {1: "a"})
    mixed = written(tmp_path / "mixed", [(n, 0.5 + (-1) ** n / 10, [1]) for n in range(40)], {1: "a"})
    low, even = (compute_snapshot_diff("s", baseline, candidate, 0, [], temp_dir=tmp_path).metrics["map"] for candidate in (fallen, mixed))
    assert low.difference == pytest.approx(-0.1)
    assert (low.p_bootstrap or 0) < 0.01
    assert even.difference == pytest.approx(0)
    assert (even.p_bootstrap or 0) > 0.5


def test_without_a_common_query_nothing_is_made_up(tmp_path: Path) -> None:
    """Churn and p-values are unknown, not zero."""
    baseline, candidate = written(tmp_path / "then", [(1, 0.9, [10])], {10: "a"}), written(tmp_path / "now", [(2, 0.9, [10])], {10: "a"})
    found = compute_snapshot_diff("s", baseline, candidate, 0, [], temp_dir=tmp_path)
    assert found.churn_at_10 is None
    assert (found.metrics["map"].queries, found.metrics["map"].difference, found.metrics["map"].p_bootstrap) == (0, None, None)
