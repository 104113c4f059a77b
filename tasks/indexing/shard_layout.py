"""Assign items to shards: items stay in their previous shard, new ones go to the open shard.

The layout follows the previous build and is no function of the item id, so a build with few new items changes few shards: the open one and
those that lost items. A first build cuts the items, ordered by id, into shards of equal size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexmill.storage import parquet
from indexmill.storage.records import Side


@dataclass(frozen=True)
class ShardCapacity:
    """How many items a shard takes, and how many shards there are; count: None where they are added as needed."""

    capacity: int
    count: int | None


@dataclass(frozen=True)
class ShardAssignment:
    """One shard as it shall be: its items, and how many of them did not stand in it before with this content."""

    number: int
    items: int
    added: int


def plan_capacity(shards: int | str, items: int, most: int) -> ShardCapacity:
    """`shards` of equal size; with `auto`, shards of at most `most` items."""
    if shards == "auto":
        return ShardCapacity(max(1, most), None)
    return ShardCapacity(max(1, -(-items // int(shards))), int(shards))


def assign_items(
    items: Path, side: Side, previous: Sequence[Path | None], space: ShardCapacity, target: Path, *, temp_dir: Path
) -> list[ShardAssignment]:
    """Write the table (slot, item_id, content_digest, side, added), ordered by slot and id, and return the slots that hold something.

    previous: what each shard held (item_id, content_digest), None where that is not known any more.
    """
    stood = " UNION ALL ".join(
        f"SELECT item_id, content_digest, {slot} AS slot FROM {parquet.scan_sql(path)}" for slot, path in enumerate(previous) if path
    )
    stood = stood or "SELECT 0::BIGINT AS item_id, '' AS content_digest, 0 AS slot LIMIT 0"
    placed = (
        "SELECT now.item_id, now.content_digest, stood.slot, stood.content_digest IS DISTINCT FROM now.content_digest AS added "
        f"FROM (SELECT item_id, content_digest FROM {parquet.scan_sql(items)} WHERE side = '{side}') now "
        f"LEFT JOIN ({stood}) stood USING (item_id)"
    )
    counts = dict(parquet.fetch_rows(f"SELECT coalesce(slot, -1), count(*) FROM ({placed}) GROUP BY ALL", temp_dir=temp_dir))
    fresh = counts.pop(-1, 0)
    kept = [counts.get(slot, 0) for slot in range(len(previous))]
    dissolved = find_underfilled_shards(kept, space)
    fresh += sum(kept[slot] for slot in dissolved)
    ranges = plan_fill({slot: count for slot, count in enumerate(kept) if slot not in dissolved}, fresh, space, len(kept))
    sql = _assignment_sql(placed, dissolved, ranges) + " ORDER BY slot, item_id"
    parquet.copy_query(sql.replace("SELECT *", f"SELECT slot, item_id, content_digest, '{side}' AS side, added", 1), target, temp_dir=temp_dir)
    totals = f"SELECT slot, count(*), count(*) FILTER (added) FROM {parquet.scan_sql(target)} GROUP BY slot ORDER BY slot"
    return [ShardAssignment(*row) for row in parquet.fetch_rows(totals, temp_dir=temp_dir)]


def find_underfilled_shards(kept: Sequence[int], space: ShardCapacity) -> list[int]:
    """The shards whose items move to the open one: all that are less than half full but the fullest of them.

    A fixed number of shards has none: there the emptiest is filled first.
    """
    if space.count is not None:
        return []
    dying = sorted((slot for slot, count in enumerate(kept) if 0 < count < space.capacity / 2), key=lambda slot: (kept[slot], slot))
    return dying[:-1]


def plan_fill(kept: Mapping[int, int], fresh: int, space: ShardCapacity, following: int) -> list[tuple[int, int, int]]:
    """(slot, first, end): the new items number first, …, end - 1 go to that slot. kept: the items that stay. following: the next free slot.

    A fixed number of shards is levelled, the emptiest first. Else the smallest shard is the open one; once it is full another is opened.
    """
    by_size = sorted(kept, key=lambda slot: (kept[slot], slot))
    if space.count is None:
        empty = [slot for slot in by_size if not kept[slot]]
        opened = by_size[len(empty) :][:1] + empty
    else:
        opened = [*by_size[: _count_empty(kept)], *range(following, space.count), *by_size[_count_empty(kept) :]]
    ranges, first = [], 0
    following = max(following, space.count or 0)
    while first < fresh:
        slot = opened.pop(0) if opened else following
        following += slot == following
        if taken := min(fresh - first, max(0, space.capacity - kept.get(slot, 0))):
            ranges.append((slot, first, first + taken))
        first += taken
    return ranges


def _count_empty(kept: Mapping[int, int]) -> int:
    return sum(not count for count in kept.values())


def _assignment_sql(placed: str, dissolved: Sequence[int], ranges: Sequence[tuple[int, int, int]]) -> str:
    """The placed items, those without a shard given one by their number in the order of their ids."""
    homeless = "slot IS NULL" + (f" OR slot IN ({', '.join(map(str, dissolved))})" if dissolved else "")
    cases = " ".join(f"WHEN number < {end} THEN {slot}" for slot, _, end in ranges)
    numbered = f"SELECT item_id, content_digest, row_number() OVER (ORDER BY item_id) - 1 AS number FROM ({placed}) WHERE {homeless}"
    moved = f"SELECT item_id, content_digest, CASE {cases} END::BIGINT AS slot, true AS added FROM ({numbered})" if ranges else ""
    stayed = f"SELECT item_id, content_digest, slot::BIGINT AS slot, added FROM ({placed}) WHERE NOT ({homeless})"
    return f"SELECT * FROM ({stayed}{' UNION ALL ' + moved if moved else ''})"
