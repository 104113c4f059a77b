"""Assign items to shards: items stay in their previous shard, new ones go to the open shard.

The layout follows the previous build and does not depend on the item ids, so a build with few new items changes few
shards: the open one and those that lost items. A first build divides the items, ordered by content digest, into shards
of equal size. Encoding fills the embedding store in the same order, so a shard's vectors are in parts that follow each
other: N shards of a store of P parts read at most P + N - 1 parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexmill.storage import parquet
from indexmill.storage.records import Side


@dataclass(frozen=True)
class ShardCapacity:
    """The largest number of items per shard, and the number of shards; None if shards are added as needed."""

    items_per_shard: int
    shard_count: int | None


@dataclass(frozen=True)
class ShardAssignment:
    """The items of one shard, and how many of them it did not hold before with this content."""

    number: int
    items: int
    added: int


def plan_capacity(shards: int | str, items: int, max_items: int) -> ShardCapacity:
    """Plan `shards` shards of equal size; with `auto`, shards of at most `max_items` items."""
    if shards == "auto":
        return ShardCapacity(max(1, max_items), None)
    return ShardCapacity(max(1, -(-items // int(shards))), int(shards))


def assign_items(
    items: Path, side: Side, previous: Sequence[Path | None], capacity: ShardCapacity, target: Path, *, temp_dir: Path
) -> list[ShardAssignment]:
    """Assign the items of one side to shards.

    Args:
        items: the items table (item_id, content_digest, side).
        side: the side to assign.
        previous: the rows table of each previous shard (item_id, content_digest); None if it is lost.
        capacity: the size and number of shards.
        target: receives the plan (shard, item_id, content_digest, side, added), ordered by shard and id.
        temp_dir: DuckDB's folder for temporary files.

    Returns:
        The shards that hold items.
    """
    placed_sql = _make_placed_sql(items, side, previous)
    counts = dict(parquet.fetch_rows(f"SELECT coalesce(shard, -1), count(*) FROM ({placed_sql}) GROUP BY ALL", temp_dir=temp_dir))
    unplaced = counts.pop(-1, 0)
    item_counts = [counts.get(shard, 0) for shard in range(len(previous))]
    dissolved = find_underfilled_shards(item_counts, capacity)
    unplaced += sum(item_counts[shard] for shard in dissolved)
    remaining = {shard: count for shard, count in enumerate(item_counts) if shard not in dissolved}
    ranges = plan_fill(remaining, unplaced, capacity, next_shard=len(item_counts))
    parquet.copy_query(_make_assignment_sql(placed_sql, side, dissolved, ranges), target, temp_dir=temp_dir)
    totals_sql = f"SELECT shard, count(*), count(*) FILTER (added) FROM {parquet.scan_sql(target)} GROUP BY shard ORDER BY shard"
    return [ShardAssignment(*row) for row in parquet.fetch_rows(totals_sql, temp_dir=temp_dir)]


def find_underfilled_shards(item_counts: Sequence[int], capacity: ShardCapacity) -> list[int]:
    """Find the shards whose items move to the open one: all that are less than half full, except the fullest of them.

    A fixed number of shards has none: there, the emptiest shard is filled first.
    """
    if capacity.shard_count is not None:
        return []
    is_underfilled = [0 < count < capacity.items_per_shard / 2 for count in item_counts]
    underfilled = sorted((shard for shard, flag in enumerate(is_underfilled) if flag), key=lambda shard: (item_counts[shard], shard))
    return underfilled[:-1]


def plan_fill(counts: Mapping[int, int], new_items: int, capacity: ShardCapacity, next_shard: int) -> list[tuple[int, int, int]]:
    """Distribute new items over the shards.

    A fixed number of shards is leveled, the emptiest first. Otherwise the smallest shard is the open one; once it is
    full, another one is opened.

    Args:
        counts: shard -> the number of its items that stay.
        new_items: the number of new items.
        capacity: the size and number of shards.
        next_shard: the next unused shard number.

    Returns:
        (shard, first, end): the new items numbered first, …, end - 1 go to that shard.
    """
    by_size = sorted(counts, key=lambda shard: (counts[shard], shard))
    empty_count = sum(not count for count in counts.values())
    empty, filled = by_size[:empty_count], by_size[empty_count:]
    shard_count = capacity.shard_count
    queue = filled[:1] + empty if shard_count is None else [*empty, *range(next_shard, shard_count), *filled]
    ranges, first = [], 0
    next_shard = max(next_shard, shard_count or 0)
    while first < new_items:
        shard = queue.pop(0) if queue else next_shard
        next_shard += shard == next_shard
        if count := min(new_items - first, max(0, capacity.items_per_shard - counts.get(shard, 0))):
            ranges.append((shard, first, first + count))
        first += count
    return ranges


def _make_placed_sql(items: Path, side: Side, previous: Sequence[Path | None]) -> str:
    """Select today's items with their previous shard, NULL without one, and whether their content is new to it."""
    previous_sql = " UNION ALL ".join(
        f"SELECT item_id, content_digest, {shard} AS shard FROM {parquet.scan_sql(path)}" for shard, path in enumerate(previous) if path
    )
    previous_sql = previous_sql or "SELECT 0::BIGINT AS item_id, '' AS content_digest, 0 AS shard LIMIT 0"
    return (
        "SELECT today.item_id, today.content_digest, previous.shard, "
        "previous.content_digest IS DISTINCT FROM today.content_digest AS added "
        f"FROM (SELECT item_id, content_digest FROM {parquet.scan_sql(items)} WHERE side = '{side}') today "
        f"LEFT JOIN ({previous_sql}) previous USING (item_id)"
    )


def _make_assignment_sql(placed_sql: str, side: Side, dissolved: Sequence[int], ranges: Sequence[tuple[int, int, int]]) -> str:
    """Select the plan: items that keep their shard, and the others numbered by content digest and distributed by
    `ranges`.
    """
    is_unplaced = "shard IS NULL" + (f" OR shard IN ({', '.join(map(str, dissolved))})" if dissolved else "")
    assigned_sql = f"SELECT item_id, content_digest, shard::BIGINT AS shard, added FROM ({placed_sql}) WHERE NOT ({is_unplaced})"
    if ranges:
        cases = " ".join(f"WHEN number < {end} THEN {shard}" for shard, _, end in ranges)
        numbered_sql = (
            "SELECT item_id, content_digest, row_number() OVER (ORDER BY content_digest, item_id) - 1 AS number "
            f"FROM ({placed_sql}) WHERE {is_unplaced}"
        )
        assigned_sql += f" UNION ALL SELECT item_id, content_digest, CASE {cases} END::BIGINT AS shard, true AS added FROM ({numbered_sql})"
    return f"SELECT shard, item_id, content_digest, '{side}' AS side, added FROM ({assigned_sql}) ORDER BY shard, item_id"
