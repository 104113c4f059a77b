"""Leaks: queries that are nearly an item of the database, whose figures would say more about copying than about searching.

The split keeps equal groups on one side by itself; what is found here is merely close (perceptual hashes within a distance), or
equal across a split that the data set came with.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute

from indexmill.storage import parquet
from indexmill.storage.root import Root
from indexmill.tasks.progress import track

LEAKS = pa.schema({"query_id": pa.int64(), "database_id": pa.int64(), "distance": pa.int32()})
QUERIES_AT_ONCE = 65_536


def find_leaks(root: Root, items: Path, target: Path, *, hashed: bool, distance: int) -> int:
    """Write one pair (query_id, database_id, distance) for every leaking query: its nearest item of the database.

    hashed: content groups are 256-bit hashes, compared by Hamming distance up to `distance`; otherwise groups leak when they are equal.
    Every query is held against every item of the database, in blocks, so the time grows with their product: 20,000 queries against
    80,000 items are some 1.6e9 comparisons, a few seconds. Returns the number of pairs.
    """
    if hashed:
        return parquet.write_parquet(target, LEAKS, _close_hashes(items, distance))
    pairs = (
        "SELECT q.item_id AS query_id, min(d.item_id) AS database_id, 0::INTEGER AS distance "
        f"FROM {parquet.scan_sql(items)} q JOIN {parquet.scan_sql(items)} d ON d.content_group = q.content_group AND d.side = 'database' "
        "WHERE q.side = 'query' GROUP BY q.item_id ORDER BY q.item_id"
    )
    return parquet.copy_query(pairs, target, spill=root.tmp)


def _close_hashes(items: Path, distance: int) -> Iterator[pa.RecordBatch]:
    queries: list[tuple[np.ndarray, np.ndarray]] = []
    for block in _hashes(items, "query"):
        queries.append(block)
        if sum(len(ids) for ids, _ in queries) >= QUERIES_AT_ONCE:
            yield _nearest(items, queries, distance)
            queries = []
    if queries:
        yield _nearest(items, queries, distance)


def _nearest(items: Path, queries: list[tuple[np.ndarray, np.ndarray]], distance: int) -> pa.RecordBatch:
    """The nearest database item of each query, where it is near enough; the lowest id of several."""
    ids, hashes = (np.concatenate(column) for column in zip(*queries, strict=True))
    nearest, who = np.full(len(ids), 257, np.int32), np.full(len(ids), -1, np.int64)
    with track("looking for leaks", len(ids)) as advance:
        for database_ids, database in _hashes(items, "database"):
            index = faiss.IndexBinaryFlat(256)
            index.add(database)
            found, rows = index.search(hashes, 1)
            better = found[:, 0] < nearest  # blocks come by ascending id, so the first of equals stays
            nearest[better], who[better] = found[better, 0], database_ids[rows[better, 0]]
        advance(len(ids))
    close = nearest <= distance
    return pa.RecordBatch.from_arrays([pa.array(ids[close]), pa.array(who[close]), pa.array(nearest[close])], schema=LEAKS)


def _hashes(items: Path, side: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(item ids, hashes as uint8 (n, 32)) of one side, block by block."""
    for batch in parquet.read_batches(items, ["item_id", "content_group", "side"]):
        chosen = batch.filter(pa.compute.equal(batch.column("side"), side))
        if chosen.num_rows:
            packed = bytes.fromhex("".join(chosen.column("content_group").to_pylist()))
            yield chosen.column("item_id").to_numpy(), np.frombuffer(packed, np.uint8).reshape(-1, 32)
