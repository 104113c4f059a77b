"""The rows of a snapshot for exports: id, metadata and vector of everything in the index, in bounded batches.

The columns are those of the snapshot's table of items, captions or chunks, then `row_digest`, which changes whenever
anything in the row does, and `embedding` (fixed-size list of float32). In an index of chunks, `item_id` is the id of
the chunk and `parent_id` that of the item.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.embedding_store import EmbeddingStore, shorten_vectors
from indexmill.storage.errors import DamagedFile
from indexmill.storage.manifests import Manifest
from indexmill.storage.part_keys import scan_keys_sql
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

ITEM_COLUMNS = ("parent_id", "chunk", "key", "label", "text", "path", "given_split", "side")
BATCH_ROWS = 4096


@dataclass(frozen=True)
class SnapshotRows:
    """The rows of one snapshot. Use `open_rows`.

    Attributes:
        root: The root of the snapshot.
        manifest: The snapshot.
        store: The embedding store with the vectors.
        table: The rows without vectors (part, item_id, metadata, row_digest), by part and id.
        count: The number of rows.
        temp_dir: A folder that is removed with the rows.
    """

    root: Root
    manifest: Manifest
    store: EmbeddingStore
    table: Path
    count: int
    temp_dir: Path

    @property
    def metadata_schema(self) -> pa.Schema:
        """The columns of a row without its vector."""
        return pa.schema([field.remove_metadata() for field in pq.read_schema(self.table) if field.name != "part"])

    @property
    def schema(self) -> pa.Schema:
        """The columns of a row."""
        return self.metadata_schema.append(pa.field("embedding", pa.list_(pa.float32(), self.manifest.dim)))

    def read_metadata(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows without their vectors, in the order of `read`."""
        return parquet.read_batches(self.table, self.metadata_schema.names, BATCH_ROWS)

    def read(self, chosen: Path | None = None) -> Iterator[pa.RecordBatch]:
        """Yield rows part by part, and by ascending id within a part.

        Args:
            chosen: A Parquet file with the `item_id` of the rows to read; all by default.

        Raises:
            DamagedFile: when a row does not have exactly one vector.
        """
        # DuckDB does not find the columns of a file in a semi join, unless the file has an alias.
        table = f"{parquet.scan_sql(self.table)} t"
        if chosen:
            table += f" SEMI JOIN {parquet.scan_sql(chosen)} c USING (item_id)"
        numbers = parquet.fetch_rows(f"SELECT DISTINCT t.part FROM {table} ORDER BY 1", temp_dir=self.temp_dir)
        parts = {self.store.get_number(part): part for part in self.store.list_readable_parts()}
        for (number,) in numbers:
            rows = f"SELECT t.* EXCLUDE (part) FROM {table} WHERE t.part = {number}"
            vectors = parquet.scan_sql(self.root.fetch(parts[number]))
            sql = (
                f"SELECT r.*, e.embedding FROM ({rows}) r LEFT JOIN (SELECT content_digest, embedding FROM {vectors}) e"
                " USING (content_digest) ORDER BY r.item_id"
            )
            with parquet.query(sql, temp_dir=self.temp_dir, batch_rows=BATCH_ROWS) as batches:
                yield from (self._with_vectors(batch) for batch in batches)

    def _with_vectors(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        column = batch.column("embedding")
        ids = batch.column("item_id").to_numpy()
        if column.null_count or np.any(np.diff(ids) <= 0):
            raise _build_vector_error(self.store)
        vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(len(ids), -1)
        if vectors.shape[1] != self.manifest.dim:
            vectors = shorten_vectors(vectors, self.manifest.dim, normalize=bool(self.manifest.config["encoder"]["normalize"]))
        values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        columns = [batch.column(name).cast(self.schema.field(name).type) for name in self.metadata_schema.names]
        return pa.RecordBatch.from_arrays([*columns, pa.FixedSizeListArray.from_arrays(values, self.manifest.dim)], schema=self.schema)


def get_vectors(batch: pa.RecordBatch) -> np.ndarray:
    """Return the vectors of a batch of rows, float32 (n, dim)."""
    column = batch.column("embedding")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


@contextmanager
def open_rows(snapshots: Snapshots, manifest: Manifest) -> Iterator[SnapshotRows]:
    """Open the rows of a snapshot. The caller holds the snapshot (`hold_snapshot`).

    Raises:
        DamagedFile: when the snapshot's tables do not fit together.
    """
    root = snapshots.root
    name = _get_table_name(manifest)
    fingerprint = next(store for store, table in manifest.embedding_stores.items() if table == name)
    store = EmbeddingStore(root, fingerprint)
    with root.scratch.staging() as staging:
        table = staging / "rows.parquet"
        items = snapshots.file(manifest, name)
        shard_rows = [snapshots.file(manifest, shard.rows.path) for shard in manifest.shards]
        count = parquet.copy_query(_build_rows_sql(manifest, store, items, shard_rows), table, temp_dir=staging)
        if count != sum(shard.count for shard in manifest.shards) or pq.read_schema(table).field("part").type == pa.null():
            raise _build_vector_error(store)
        without_vector = f"SELECT count(*) FROM {parquet.scan_sql(table)} WHERE part IS NULL"
        if parquet.fetch_rows(without_vector, temp_dir=staging) != [(0,)]:
            raise _build_vector_error(store)
        yield SnapshotRows(root, manifest, store, table, count, staging)


def _get_table_name(manifest: Manifest) -> str:
    """Return the snapshot's table with one row per vector of the index."""
    if manifest.index_modality != manifest.modality:
        return "captions.parquet"
    return "chunks.parquet" if "chunks.parquet" in manifest.embedding_stores.values() else "items.parquet"


def _build_rows_sql(manifest: Manifest, store: EmbeddingStore, items: Path, shard_rows: list[Path]) -> str:
    """Return a SELECT of the rows: part, item_id, the columns of the items, content_digest, row_digest."""
    columns = [name for name in ITEM_COLUMNS if name in pq.read_schema(items).names]
    # Each with its length, because values may contain any separator; and what the vector depends on besides the content.
    values = ", ".join(f"coalesce(length(t.{name}::VARCHAR) || '/' || t.{name}, 'null')" for name in columns)
    digest = f"md5(concat_ws('/', '{manifest.fingerprint}', {manifest.dim}, r.content_digest, {values}))"
    keys = scan_keys_sql(store.root, store.list_readable_parts())
    return (
        f"SELECT k.part, r.item_id, {', '.join(f't.{name}' for name in columns)}, r.content_digest, {digest} AS row_digest "
        f"FROM {parquet.scan_sql(*shard_rows)} r JOIN {parquet.scan_sql(items)} t USING (item_id) "
        f"LEFT JOIN {keys} k ON k.content_digest = r.content_digest ORDER BY k.part, r.item_id"
    )


def _build_vector_error(store: EmbeddingStore) -> DamagedFile:
    return DamagedFile(
        "the snapshot and the embedding store do not hold exactly one vector per row",
        where=str(store.folder),
        next_step="run the build again; if that does not help, delete that folder and build again, which encodes everything again",
    )
