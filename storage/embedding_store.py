"""The embedding store: (encoder fingerprint, content digest) -> vector, in append-only Parquet parts.

Columns of a part: `item_id` (int64, an item that had this content when it was encoded), `content_digest` (string),
`truncated` (bool, the model saw only the beginning of the content) and `embedding` (fixed-size list of float32 or
float16). A content is in exactly one part, because writers hold the store's lease. Contents that have no usable vector
are in `rejected-00000.parquet` and so on (content_digest, reason, message), so that later builds do not encode them
again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.errors import DamagedFile
from indexmill.storage.part_folder import PartFolder
from indexmill.storage.records import EmbeddingSet, FileRef, Side
from indexmill.storage.root import Root

StorageDtype = Literal["float32", "float16"]


class EmbeddingPartWriter:
    """Writes one part block by block. `rows` is the number of rows so far."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema, self.rows = file, schema, 0

    def write(self, item_ids: Sequence[int], digests: Sequence[str], truncated: np.ndarray, vectors: np.ndarray) -> None:
        """Append a block of n rows.

        Args:
            item_ids: The item id of each row.
            digests: The content digest of each row.
            truncated: bool (n,), whether the model saw only the beginning of the content.
            vectors: float32 (n, dim).
        """
        vector_type = self._schema.field("embedding").type
        values = pa.array(np.ascontiguousarray(vectors).astype(vector_type.value_type.to_pandas_dtype()).reshape(-1))
        columns = [
            pa.array(item_ids, pa.int64()),
            pa.array(digests, pa.string()),
            pa.array(truncated, pa.bool_()),
            pa.FixedSizeListArray.from_arrays(values, type=vector_type),
        ]
        self._file.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self.rows += len(item_ids)


@contextmanager
def open_part(path: Path, dim: int, storage_dtype: StorageDtype = "float32") -> Iterator[EmbeddingPartWriter]:
    """Open a part for vectors with `dim` dimensions."""
    columns = {"item_id": pa.int64(), "content_digest": pa.string(), "truncated": pa.bool_()}
    schema = pa.schema(columns | {"embedding": pa.list_(pa.from_numpy_dtype(storage_dtype), dim)})
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        yield EmbeddingPartWriter(file, schema)


REJECTED_SCHEMA = pa.schema({"content_digest": pa.string(), "reason": pa.string(), "message": pa.string()})


class EmbeddingStore(PartFolder):
    """The vectors of one encoder under one root. `rejected_parts` holds the contents that have no usable vector."""

    def __init__(self, root: Root, fingerprint: str) -> None:
        super().__init__(root, root.embeddings(fingerprint))
        self.rejected_parts = PartFolder(root, self.folder, "rejected")

    @property
    def dim(self) -> int:
        """The number of dimensions, from a part's schema. There must be a part."""
        return int(pq.read_schema(self.list_readable_parts()[0]).field("embedding").type.list_size)

    def count_missing(self, items: Path) -> int:
        """Count the distinct contents of the items table that are neither encoded nor rejected."""
        return int(parquet.fetch_rows(f"SELECT count(*) FROM ({self._missing_sql(items)})", temp_dir=self.root.tmp)[0][0])

    def write_encode_plan(self, items: Path, chunk_rows: int, target: Path) -> int:
        """Write the missing contents as a table (chunk, item_id, content_digest, text, path) and return their number.

        A chunk has `chunk_rows` rows. Rows are ordered by digest, so the plan depends only on what is missing.
        """
        chunk = f"(row_number() OVER (ORDER BY content_digest) - 1) // {chunk_rows}"
        sql = f"SELECT {chunk} AS chunk, * FROM ({self._missing_sql(items)}) ORDER BY content_digest"
        return parquet.copy_query(sql, target, temp_dir=self.root.tmp)

    def find_refs(self, items: Path) -> tuple[FileRef, ...]:
        """Return references to the parts that hold at least one content of the items table."""
        if not (parts := self.list_readable_parts()):
            return ()
        rows = parquet.fetch_rows(
            f"SELECT DISTINCT e.filename FROM {parquet.scan_sql(*parts, options='filename=true')} e "
            f"SEMI JOIN {parquet.scan_sql(items)} i USING (content_digest) ORDER BY 1",
            temp_dir=self.root.tmp,
        )
        return tuple(self.root.make_ref(Path(name), digest=False) for (name,) in rows)

    def count_truncated(self, items: Path) -> int:
        """Count the items of the table of which the model saw only the beginning."""
        if not (parts := self.list_readable_parts()):
            return 0
        truncated = f"FROM {parquet.scan_sql(*parts)} WHERE truncated"
        sql = f"SELECT count(*) FROM {parquet.scan_sql(items)} SEMI JOIN ({truncated}) USING (content_digest)"
        return int(parquet.fetch_rows(sql, temp_dir=self.root.tmp)[0][0])

    def rejected_sql(self) -> str:
        """Return the rejected contents as an SQL subquery with the columns of REJECTED_SCHEMA."""
        return self.rejected_parts.to_sql(REJECTED_SCHEMA)

    def _missing_sql(self, items: Path) -> str:
        contents = (
            "SELECT min(item_id) AS item_id, content_digest, arg_min(text, item_id) AS text, arg_min(path, item_id) AS path "
            f"FROM {parquet.scan_sql(items)} GROUP BY content_digest"
        )
        known_digests = f"SELECT content_digest FROM {self.rejected_sql()}"
        if parts := self.list_readable_parts():
            known_digests += f" UNION ALL SELECT content_digest FROM {parquet.scan_sql(*parts)}"
        return f"SELECT * FROM ({contents}) ANTI JOIN ({known_digests}) USING (content_digest)"


@contextmanager
def open_vectors(
    root: Root,
    embeddings: EmbeddingSet,
    *,
    side: Side,
    leaking: bool = True,
    sample: tuple[int, int] | None = None,
    digests: tuple[str, str] | None = None,
) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Yield an iterator over blocks of one side, ordered by item id: ids int64 (n,) and vectors float32 (n, dim).

    Args:
        root: The root of the embedding store.
        embeddings: The items and the parts with their vectors.
        side: "database" or "query".
        leaking: Include queries that are nearly equal to an item of the database.
        sample: (size, seed). At most `size` items, drawn by a keyed hash of their ids: the same items give the same
            sample.
        digests: Only contents from the first digest up to, and without, the second.

    Raises:
        DamagedFile: when an item does not have exactly one vector.
    """
    items = f"SELECT item_id, content_digest FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = '{side}'"
    if not leaking:
        items += " AND NOT leak"
    if digests:
        items += f" AND content_digest >= '{digests[0]}' AND content_digest < '{digests[1]}'"
    if sample:
        size, seed = sample
        items += f" ORDER BY md5('{seed}/' || item_id), item_id LIMIT {size}"
    parts = parquet.scan_sql(*(root.file(ref) for ref in embeddings.files if "/part-" in ref.path))
    if digests:  # read only the row groups that can hold them
        parts = f"(FROM {parts} WHERE content_digest >= '{digests[0]}' AND content_digest < '{digests[1]}')"
    sql = f"SELECT i.item_id, e.embedding FROM ({items}) i LEFT JOIN {parts} e USING (content_digest) ORDER BY i.item_id"
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        yield _iter_blocks(batches, embeddings)


def concatenate_blocks(blocks: Iterator[tuple[np.ndarray, np.ndarray]], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate all blocks to ids int64 (n,) and vectors float32 (n, dim); n may be 0.

    Use it for samples, which fit in memory.
    """
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    for block_ids, block_vectors in blocks:
        ids.append(block_ids)
        vectors.append(block_vectors)
    return np.concatenate(ids), np.concatenate(vectors)


def _iter_blocks(batches: Iterator[pa.RecordBatch], embeddings: EmbeddingSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    previous_id = 0
    for batch in batches:
        ids = batch.column("item_id").to_numpy(zero_copy_only=False)
        column = batch.column("embedding")
        if column.null_count or np.any(np.diff(ids, prepend=previous_id) <= 0):
            raise DamagedFile(
                "the embedding store does not hold exactly one vector per item",
                where=f"embeddings/{embeddings.fingerprint}",
                next_step="delete that folder and build again, which encodes everything again",
            )
        previous_id = int(ids[-1])
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        yield ids, values.reshape(-1, embeddings.dim)
