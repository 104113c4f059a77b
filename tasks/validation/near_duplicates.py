"""Find leaks: queries that are near duplicates of a database item and would measure copying rather than search.

The split already keeps equal content groups on one side. Leaks are groups that are merely close (perceptual hashes
within a Hamming distance), or equal across a split that the data set defines.
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
from indexmill.tasks.validation.image_signature import HASH_BYTES

LEAKS_SCHEMA = pa.schema({"query_id": pa.int64(), "database_id": pa.int64(), "distance": pa.int32()})
QUERY_BATCH_ROWS = 65_536


def find_leaks(root: Root, items: Path, target: Path, *, by_hash: bool, max_distance: int) -> int:
    """Write one pair (query_id, database_id, distance) per leaking query, with its nearest database item.

    Every query is compared with every database item, in blocks. 20,000 queries and 80,000 items are 1.6e9 comparisons,
    which take a few seconds.

    Args:
        root: The storage root.
        items: A Parquet file with the columns item_id, content_group, perceptual_hash and side.
        target: The Parquet file to write.
        by_hash: Perceptual hashes within `max_distance` leak. Otherwise equal groups leak.
        max_distance: The largest Hamming distance of a leak in bits.

    Returns:
        The number of pairs.
    """
    if by_hash:
        return parquet.write_parquet(target, LEAKS_SCHEMA, _find_near_duplicates(items, max_distance))
    pairs_sql = (
        "SELECT q.item_id AS query_id, min(d.item_id) AS database_id, 0::INTEGER AS distance "
        f"FROM {parquet.scan_sql(items)} q JOIN {parquet.scan_sql(items)} d ON d.content_group = q.content_group AND d.side = 'database' "
        "WHERE q.side = 'query' GROUP BY q.item_id ORDER BY q.item_id"
    )
    return parquet.copy_query(pairs_sql, target, temp_dir=root.tmp)


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
    """Return the nearest database item of each query within the distance; of equally near ones, the lowest id."""
    ids, hashes = (np.concatenate(column) for column in zip(*queries, strict=True))
    nearest = np.full(len(ids), 8 * HASH_BYTES + 1, np.int32)  # above any distance
    nearest_ids = np.full(len(ids), -1, np.int64)
    with track("finding leaks", len(ids)) as advance:
        for database_ids, database in _read_hashes(items, "database"):
            index = faiss.IndexBinaryFlat(8 * HASH_BYTES)
            index.add(database)
            distances, rows = index.search(hashes, 1)
            is_nearer = distances[:, 0] < nearest  # blocks come in order of id, so of equal distances the first stays
            nearest[is_nearer] = distances[is_nearer, 0]
            nearest_ids[is_nearer] = database_ids[rows[is_nearer, 0]]
        advance(len(ids))
    is_leak = nearest <= max_distance
    columns = [pa.array(column[is_leak]) for column in (ids, nearest_ids, nearest)]
    return pa.RecordBatch.from_arrays(columns, schema=LEAKS_SCHEMA)


def _read_hashes(items: Path, side: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the item ids and hashes (uint8, shape (n, HASH_BYTES)) of one side, block by block."""
    for batch in parquet.read_batches(items, ["item_id", "perceptual_hash", "side"]):
        rows = batch.filter(pa.compute.equal(batch.column("side"), side))
        if rows.num_rows:
            packed = bytes.fromhex("".join(rows.column("perceptual_hash").to_pylist()))
            yield rows.column("item_id").to_numpy(), np.frombuffer(packed, np.uint8).reshape(-1, HASH_BYTES)
