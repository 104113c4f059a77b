"""Items stay in the shard where they stand; new ones fill the open shard."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


def table(path: Path, rows: Rows) -> Path:
    ids = sorted(rows)
    columns = {"item_id": pa.array(ids, pa.int64()), "content_digest": pa.array([rows[item] for item in ids], pa.string())}
    pq.write_table(pa.table(columns | {"side": pa.array(["database"] * len(ids), pa.string())}), path)
    return path


def assigned(folder: Path, rows: Rows, previous: list[Rows | None], space: ShardCapacity) -> tuple[list[ShardAssignment], dict[int, int]]:
    """The slots, and item id -> slot."""
    before = [None if shard is None else table(folder / f"{number}.parquet", shard) for number, shard in enumerate(previous)]
    slots = assign_items(table(folder / "items.parquet", rows), "database", before, space, folder / "plan.parquet", temp_dir=folder)
    plan = pq.read_table(folder / "plan.parquet").to_pydict()
    assert len(set(plan["item_id"])) == len(plan["item_id"])
    return slots, dict(zip(plan["item_id"], plan["slot"], strict=True))


def test_from_nothing_shards_are_filled_in_the_order_of_ids(tmp_path: Path) -> None:
    """Seven items, three a shard: 3, 3, 1; cut into two shards: 4 and 3."""
    rows = dict.fromkeys(range(10, 17), "a")
    slots, places = assigned(tmp_path, rows, [], plan_capacity("auto", 7, 3))
    assert slots == [ShardAssignment(0, 3, 3), ShardAssignment(1, 3, 3), ShardAssignment(2, 1, 1)]
    assert [places[item] for item in sorted(rows)] == [0, 0, 0, 1, 1, 1, 2]
    assert assigned(tmp_path, rows, [], plan_capacity(2, 7, 3))[0] == [ShardAssignment(0, 4, 4), ShardAssignment(1, 3, 3)]


def test_a_night_touches_the_open_shard_and_those_that_items_left(tmp_path: Path) -> None:
    """Shard 0 is as it was; 5 is replaced in its place; 6 is gone; 1 and 9 are new and go to the smallest shard, then to another."""
    previous: list[Rows | None] = [{2: "a", 3: "b", 4: "c"}, {5: "d", 6: "e", 7: "f"}, {8: "g", 10: "h"}]
    rows = {2: "a", 3: "b", 4: "c", 5: "changed", 7: "f", 8: "g", 10: "h", 1: "new", 9: "new", 11: "new"}
    slots, places = assigned(tmp_path, rows, previous, ShardCapacity(3, None))
    assert slots == [ShardAssignment(0, 3, 0), ShardAssignment(1, 3, 2), ShardAssignment(2, 2, 0), ShardAssignment(3, 2, 2)]
    assert (places[5], places[1], places[9], places[11]) == (1, 1, 3, 3)


def test_a_fixed_number_of_shards_is_levelled(tmp_path: Path) -> None:
    """Two shards of 3 and 1, and two new items: both go to the smaller."""
    slots, _ = assigned(tmp_path, dict.fromkeys(range(1, 7), "a"), [{1: "a", 2: "a", 3: "a"}, {4: "a"}], plan_capacity(2, 6, 1000))
    assert slots == [ShardAssignment(0, 3, 0), ShardAssignment(1, 3, 2)]


def test_mostly_dead_shards_are_dissolved_into_the_fullest_of_them(tmp_path: Path) -> None:
    """Of shards for 10 with 4, 10, 3 and 1 items left, the second stays as it is and the first takes the rest."""
    previous: list[Rows | None] = [
        dict.fromkeys(range(100, 104), "a"), dict.fromkeys(range(200, 210), "a"), dict.fromkeys(range(300, 303), "a"), {400: "a"},
    ]  # fmt: skip
    rows = {item: "a" for shard in previous if shard for item in shard}
    assert assigned(tmp_path, rows, previous, ShardCapacity(10, None))[0] == [ShardAssignment(0, 8, 4), ShardAssignment(1, 10, 0)]
    assert find_underfilled_shards([4, 10, 3, 1], ShardCapacity(10, 4)) == []


def test_the_open_shard_is_the_smallest_that_holds_anything() -> None:
    """A shard that lost all its items is used before another is opened."""
    assert plan_fill({0: 5, 1: 0, 2: 3}, 4, ShardCapacity(5, None), 3) == [(2, 0, 2), (1, 2, 4)]
    assert plan_fill({}, 4, ShardCapacity(3, None), 0) == [(0, 0, 3), (1, 3, 4)]


contents = st.dictionaries(st.integers(1, 60), st.sampled_from("abc"), max_size=40)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nights=st.lists(contents.filter(bool), min_size=2, max_size=4), capacity=st.integers(1, 12), fixed=st.none() | st.integers(1, 5))
def test_every_item_has_one_place_and_keeps_it(tmp_path: Path, nights: list[Rows], capacity: int, fixed: int | None) -> None:
    """Over any nights: nothing is lost, `added` counts what is new, no shard overflows, and at most one is less than half full."""
    previous: list[Rows | None] = []
    for rows in nights:
        space = plan_capacity(fixed or "auto", len(rows), capacity)
        slots, places = assigned(tmp_path, rows, previous, space)
        assert places.keys() == rows.keys()
        shards: list[Rows | None] = [{item: rows[item] for item in rows if places[item] == slot.number} for slot in slots]
        for slot, shard in zip(slots, shards, strict=True):
            before = (previous[slot.number] if slot.number < len(previous) else None) or {}
            assert slot.items == len(shard or {})
            assert slot.added == len((shard or {}).items() - before.items())
        if fixed is None:
            assert all(slot.items <= capacity for slot in slots)
            assert sum(slot.items < capacity / 2 for slot in slots) <= 2  # the open one, and one that was opened tonight
            dissolved = find_underfilled_shards([len(rows.keys() & (shard or {}).keys()) for shard in previous], space)
        else:
            assert len(slots) <= max(fixed, len(previous))
            dissolved = []
        stood = {item: slot for slot, shard in enumerate(previous) for item in shard or {} if slot not in dissolved}
        assert all(places[item] == stood[item] for item in rows.keys() & stood.keys())
        previous = shards
