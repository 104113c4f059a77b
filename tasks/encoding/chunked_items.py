"""Gather the items whose texts were encoded in chunks."""

from __future__ import annotations

from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.records import EmbeddingSet, FileRef, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.validation.rejects import REJECTS_SCHEMA


def gather_items(root: Root, split: SplitDataset, chunks: EmbeddingSet) -> EmbeddingSet:
    """Return the set of the items over that of their chunks.

    An item with a chunk that has no usable vector is rejected as a whole, with the reason of that chunk: a part of it would be
    missing from every search.

    Args:
        root: The storage root.
        split: The items and the table of all chunks.
        chunks: The chunks that have a vector.
    """
    items, rejects, rejected = split.table, None, 0
    if chunks.rejects is not None:
        items, rejects, chunks = _reject_items(root, split, chunks, chunks.rejects)
        rejected = _count(root, rejects)
    counts = f"SELECT count(*) FILTER (side = 'database'), count(*) FILTER (side = 'query') FROM {parquet.scan_sql(root.file(items))}"
    database, query = parquet.fetch_rows(counts, temp_dir=root.tmp)[0]
    refs = (items, *((rejects,) if rejects else ()))
    return chunks.model_copy(
        update={
            "digest": json_digest([chunks.digest, parquet.compute_digest(root.file(items))]),
            "files": (*refs, *chunks.files),
            "database": database,
            "query": query,
            "rejected": rejected,
            "items": items,
            "rejects": rejects,
            "chunks": chunks,
        }
    )


def _reject_items(root: Root, split: SplitDataset, chunks: EmbeddingSet, chunk_rejects: FileRef) -> tuple[FileRef, FileRef, EmbeddingSet]:
    """Write the items without rejected chunks, the others with their reasons, and the chunks of the former."""
    assert split.chunks is not None  # noqa: S101 (the caller has encoded them)
    all_items, all_chunks, failed = (parquet.scan_sql(root.file(ref)) for ref in (split.table, split.chunks.table, chunk_rejects))
    reasons = (
        "SELECT c.parent_id AS item_id, arg_min(r.reason, c.chunk) AS reason, "
        "arg_min(concat('chunk ', c.chunk + 1, ': ', r.message), c.chunk) AS message "
        f"FROM {failed} r JOIN {all_chunks} c USING (item_id) GROUP BY 1"
    )
    columns = ", ".join(f"{'r' if name in ('reason', 'message') else 'i'}.{name}" for name in REJECTS_SCHEMA.names)
    queries = {
        "items": f"FROM {all_items} ANTI JOIN ({reasons}) USING (item_id) ORDER BY item_id",
        "rejects": f"SELECT {columns} FROM {all_items} i JOIN ({reasons}) r USING (item_id) ORDER BY i.item_id",
        "chunks": f"FROM {all_chunks} c ANTI JOIN ({reasons}) r ON c.parent_id = r.item_id ORDER BY item_id",
    }
    with root.scratch.staging() as staging:
        paths = {name: staging / f"{name}.parquet" for name in queries}
        for name, sql in queries.items():
            parquet.copy_query(sql, paths[name], temp_dir=root.tmp)
        digests = [parquet.compute_digest(path) for path in paths.values()]
        folder = root.dataset(split.name, "encoded", json_digest(digests))
        for path in paths.values():
            root.commit(path, folder / path.name)
    items, rejects, table = (root.make_ref(folder / f"{name}.parquet") for name in queries)
    counts = f"SELECT count(*) FILTER (side = 'database'), count(*) FILTER (side = 'query') FROM {parquet.scan_sql(root.file(table))}"
    database, query = parquet.fetch_rows(counts, temp_dir=root.tmp)[0]
    parts = tuple(ref for ref in chunks.files if "/part-" in ref.path)
    kept = {"files": (table, *parts), "items": table, "rejects": None, "rejected": 0, "database": database, "query": query}
    return items, rejects, chunks.model_copy(update={"digest": json_digest([chunks.digest, digests]), **kept})


def _count(root: Root, table: FileRef) -> int:
    return int(parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(root.file(table))}", temp_dir=root.tmp)[0][0])
