"""Items stay in their shard; new ones fill the open shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexmill.tasks.indexing.shard_layout import (
    ShardAssignment,
    ShardCapacity,
    assign_items,
    find_underfilled_shards,
    plan_capacity,
    plan_fill,
)

Rows = dict[int, str]  # item id -> content


def write_rows(path: Path, rows: Rows) -> Path:
    ids = sorted(rows)
    columns = {"item_id": pa.array(ids, pa.int64()), "content_digest": pa.array([rows[item] for item in ids], pa.string())}
    pq.write_table(pa.table(columns | {"side": pa.array(["database"] * len(ids), pa.string())}), path)
    return path


def assign(
    folder: Path, rows: Rows, previous: list[Rows | None], shard_capacity: ShardCapacity
) -> tuple[list[ShardAssignment], dict[int, int]]:
    """Assign the items; return the shards, and item id -> shard."""
    before = [None if shard is None else write_rows(folder / f"{number}.parquet", shard) for number, shard in enumerate(previous)]
    assignments = assign_items(
        write_rows(folder / "items.parquet", rows), "database", before, shard_capacity, folder / "plan.parquet", temp_dir=folder
    )
    plan = pq.read_table(folder / "plan.parquet").to_pydict()
    assert len(set(plan["item_id"])) == len(plan["item_id"])
    return assignments, dict(zip(plan["item_id"], plan["shard"], strict=True))


def test_a_first_build_fills_shards_in_the_order_of_contents(tmp_path: Path) -> None:
    """Five items, two per shard, by content: d and c, b twice (by id), and a."""
    rows = {1: "d", 2: "a", 3: "b", 4: "c", 5: "b"}
    assignments, shard_of = assign(tmp_path, rows, [], plan_capacity("auto", 5, 2))
    assert assignments == [ShardAssignment(0, 2, 2), ShardAssignment(1, 2, 2), ShardAssignment(2, 1, 1)]
    assert shard_of == {2: 0, 3: 0, 5: 1, 4: 1, 1: 2}


def test_a_first_build_fills_shards_of_equal_contents_in_the_order_of_ids(tmp_path: Path) -> None:
    """Seven items, three per shard: 3, 3, 1; divided into two shards: 4 and 3."""
    rows = dict.fromkeys(range(10, 17), "a")
    assignments, shard_of = assign(tmp_path, rows, [], plan_capacity("auto", 7, 3))
    assert assignments == [ShardAssignment(0, 3, 3), ShardAssignment(1, 3, 3), ShardAssignment(2, 1, 1)]
    assert [shard_of[item] for item in sorted(rows)] == [0, 0, 0, 1, 1, 1, 2]
    assert assign(tmp_path, rows, [], plan_capacity(2, 7, 3))[0] == [ShardAssignment(0, 4, 4), ShardAssignment(1, 3, 3)]


def test_an_update_changes_the_open_shard_and_those_that_lost_items(tmp_path: Path) -> None:
    """Shard 0 is unchanged.

    5 is replaced in its shard; 6 is deleted; new items go to the smallest shard, then to another one.
    """
    previous: list[Rows | None] = [{2: "a", 3: "b", 4: "c"}, {5: "d", 6: "e", 7: "f"}, {8: "g", 10: "h"}]
    rows = {2: "a", 3: "b", 4: "c", 5: "changed", 7: "f", 8: "g", 10: "h", 1: "new", 9: "new", 11: "new"}
    assignments, shard_of = assign(tmp_path, rows, previous, ShardCapacity(3, None))
    assert assignments == [ShardAssignment(0, 3, 0), ShardAssignment(1, 3, 2), ShardAssignment(2, 2, 0), ShardAssignment(3, 2, 2)]
    assert (shard_of[5], shard_of[1], shard_of[9], shard_of[11]) == (1, 1, 3, 3)


def test_a_fixed_number_of_shards_is_leveled(tmp_path: Path) -> None:
    """Two shards of 3 and 1, and two new items: both go to the smaller."""
    assignments, _ = assign(tmp_path, dict.fromkeys(range(1, 7), "a"), [{1: "a", 2: "a", 3: "a"}, {4: "a"}], plan_capacity(2, 6, 1000))
    assert assignments == [ShardAssignment(0, 3, 0), ShardAssignment(1, 3, 2)]


def test_underfilled_shards_are_dissolved_into_the_fullest_of_them(tmp_path: Path) -> None:
    """Of shards for 10 with 4, 10, 3 and 1 items left, the second stays as it is and the first takes the rest."""
    ranges = (range(100, 104), range(200, 210), range(300, 303), range(400, 401))
    previous: list[Rows | None] = [dict.fromkeys(ids, "a") for ids in ranges]
    rows = {item: "a" for shard in previous if shard for item in shard}
    assert assign(tmp_path, rows, previous, ShardCapacity(10, None))[0] == [ShardAssignment(0, 8, 4), ShardAssignment(1, 10, 0)]
    assert find_underfilled_shards([4, 10, 3, 1], ShardCapacity(10, 4)) == []


def test_the_open_shard_is_the_smallest_one_with_items() -> None:
    """A shard that lost all its items is used before another one is opened."""
    assert plan_fill({0: 5, 1: 0, 2: 3}, 4, ShardCapacity(5, None), 3) == [(2, 0, 2), (1, 2, 4)]
    assert plan_fill({}, 4, ShardCapacity(3, None), 0) == [(0, 0, 3), (1, 3, 4)]


contents = st.dictionaries(st.integers(1, 60), st.sampled_from("abc"), max_size=40)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(builds=st.lists(contents.filter(bool), min_size=2, max_size=4), capacity=st.integers(1, 12), fixed=st.none() | st.integers(1, 5))
def test_every_item_has_one_shard_and_keeps_it(tmp_path: Path, builds: list[Rows], capacity: int, fixed: int | None) -> None:
    """Over any builds, nothing is lost, `added` counts new contents, no shard overflows, and at most two are less than
    half full.
    """
    previous: list[Rows | None] = []
    for rows in builds:
        shard_capacity = plan_capacity(fixed or "auto", len(rows), capacity)
        assignments, shard_of = assign(tmp_path, rows, previous, shard_capacity)
        assert shard_of.keys() == rows.keys()
        shards: list[Rows | None] = [
            {item: rows[item] for item in rows if shard_of[item] == assignment.number} for assignment in assignments
        ]
        for assignment, shard in zip(assignments, shards, strict=True):
            before = (previous[assignment.number] if assignment.number < len(previous) else None) or {}
            assert assignment.items == len(shard or {})
            assert assignment.added == len((shard or {}).items() - before.items())
        if fixed is None:
            assert all(assignment.items <= capacity for assignment in assignments)
            assert (
                sum(assignment.items < capacity / 2 for assignment in assignments) <= 2
            )  # the open one, and one that was opened in this build
            dissolved = find_underfilled_shards([len(rows.keys() & (shard or {}).keys()) for shard in previous], shard_capacity)
        else:
            assert len(assignments) <= max(fixed, len(previous))
            dissolved = []
        previous_shard_of = {
            item: assignment for assignment, shard in enumerate(previous) for item in shard or {} if assignment not in dissolved
        }
        assert all(shard_of[item] == previous_shard_of[item] for item in rows.keys() & previous_shard_of.keys())
        previous = shards
