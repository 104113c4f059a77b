"""Find leaks: queries that are near duplicates of a database item and would measure copying rather than search.

The split already keeps equal content groups on one side. Leaks are groups that are merely close (perceptual hashes
within a Hamming distance), or equal across a split that the data set defines."""

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

LEAKS_SCHEMA = pa.schema({"query_id": pa.int64(), "database_id": pa.int64(), "distance": pa.int32()})
QUERY_BATCH_ROWS = 65_536


def find_leaks(root: Root, items: Path, target: Path, *, groups_are_hashes: bool, max_distance: int) -> int:
    """Write one pair (query_id, database_id, distance) for every leaking query: its nearest item of the database.

    hashed: content groups are 256-bit hashes, compared by Hamming distance up to `max_distance`; otherwise groups leak when they are equal.
    Every query is held against every item of the database, in blocks, so the time grows with their product: 20,000 queries against
    80,000 items are some 1.6e9 comparisons, a few seconds. Returns the number of pairs.
    """
    if groups_are_hashes:
        return parquet.write_parquet(target, LEAKS_SCHEMA, _find_near_duplicates(items, max_distance))
    pairs = (
        "SELECT q.item_id AS query_id, min(d.item_id) AS database_id, 0::INTEGER AS distance "
        f"FROM {parquet.scan_sql(items)} q JOIN {parquet.scan_sql(items)} d ON d.content_group = q.content_group AND d.side = 'database' "
        "WHERE q.side = 'query' GROUP BY q.item_id ORDER BY q.item_id"
    )
    return parquet.copy_query(pairs, target, temp_dir=root.tmp)


def _find_near_duplicates(items: Path, max_distance: int) -> Iterator[pa.RecordBatch]:
    queries: list[tuple[np.ndarray, np.ndarray]] = []
    for block in _read_hashes(items, "query"):
        queries.append(block)
        if sum(len(ids) for ids, _ in queries) >= QUERY_BATCH_ROWS:
            yield _find_nearest(items, queries, max_distance)
            queries = []
    if queries:
        yield _find_nearest(items, queries, max_distance)


def _find_nearest(items: Path, queries: list[tuple[np.ndarray, np.ndarray]], max_distance: int) -> pa.RecordBatch:
    """The nearest database item of each query, where it is near enough; the lowest id of several."""
    ids, hashes = (np.concatenate(column) for column in zip(*queries, strict=True))
    nearest, nearest_ids = np.full(len(ids), 257, np.int32), np.full(len(ids), -1, np.int64)
    with track("looking for leaks", len(ids)) as advance:
        for database_ids, database in _read_hashes(items, "database"):
            index = faiss.IndexBinaryFlat(256)
            index.add(database)
            distances, rows = index.search(hashes, 1)
            better = distances[:, 0] < nearest  # blocks come by ascending id, so the first of equals stays
            nearest[better], nearest_ids[better] = distances[better, 0], database_ids[rows[better, 0]]
        advance(len(ids))
    close = nearest <= max_distance
    return pa.RecordBatch.from_arrays([pa.array(ids[close]), pa.array(nearest_ids[close]), pa.array(nearest[close])], schema=LEAKS_SCHEMA)


def _read_hashes(items: Path, side: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(item ids, hashes as uint8 (n, 32)) of one side, block by block."""
    for batch in parquet.read_batches(items, ["item_id", "content_group", "side"]):
        chosen = batch.filter(pa.compute.equal(batch.column("side"), side))
        if chosen.num_rows:
            packed = bytes.fromhex("".join(chosen.column("content_group").to_pylist()))
            yield chosen.column("item_id").to_numpy(), np.frombuffer(packed, np.uint8).reshape(-1, 32)
