"""The embedding store: (encoder fingerprint, content digest) -> vector, as append-only Parquet parts.

Columns of a part: `item_id` (int64: an item that had this content when it was encoded), `content_digest` (string), `truncated` (bool: the
model saw only the beginning of the content) and `embedding` (fixed-size list of float32 or float16). Each content is in exactly one part,
because writers hold the store's lease. Contents without a searchable vector are in `rejected-00000.parquet` and so on
(content_digest, reason, message), so that they are not encoded again by every build."""

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
    """A part that grows by blocks. `rows` counts them."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema, self.rows = file, schema, 0

    def write(self, item_ids: Sequence[int], digests: Sequence[str], truncated: np.ndarray, vectors: np.ndarray) -> None:
        """Add a block. truncated: bool (n,); vectors: float32 (n, dim), row i for item_ids[i] and digests[i]."""
        kind = self._schema.field("embedding").type
        numbers = pa.array(np.ascontiguousarray(vectors).astype(kind.value_type.to_pandas_dtype()).reshape(-1))
        columns = [pa.array(item_ids, pa.int64()), pa.array(digests, pa.string()), pa.array(truncated, pa.bool_())]
        block = pa.RecordBatch.from_arrays([*columns, pa.FixedSizeListArray.from_arrays(numbers, type=kind)], schema=self._schema)
        self._file.write_batch(block)
        self.rows += block.num_rows


@contextmanager
def open_part(path: Path, dim: int, storage_dtype: StorageDtype = "float32") -> Iterator[EmbeddingPartWriter]:
    """Open a part for vectors of `dim` numbers."""
    columns = {"item_id": pa.int64(), "content_digest": pa.string(), "truncated": pa.bool_()}
    schema = pa.schema(columns | {"embedding": pa.list_(pa.from_numpy_dtype(storage_dtype), dim)})
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        yield EmbeddingPartWriter(file, schema)


REJECTED = pa.schema({"content_digest": pa.string(), "reason": pa.string(), "message": pa.string()})


class EmbeddingStore(PartFolder):
    """The vectors of one encoder under one root. rejected: the contents that have none for good."""

    def __init__(self, root: Root, fingerprint: str) -> None:
        super().__init__(root, root.embeddings(fingerprint))
        self.rejected_parts = PartFolder(root, self.folder, "rejected")

    @property
    def dim(self) -> int:
        """Length of the vectors, read from a part's schema; there must be a part."""
        return int(pq.read_schema(self.list_readable_parts()[0]).field("embedding").type.list_size)

    def count_missing(self, items: Path) -> int:
        """How many distinct contents of the items table have neither a vector nor a reason why not."""
        return int(parquet.fetch_rows(f"SELECT count(*) FROM ({self._missing_sql(items)})", temp_dir=self.root.tmp)[0][0])

    def write_encode_plan(self, items: Path, chunk_rows: int, target: Path) -> int:
        """Write what is missing as a table (shard, item_id, content_digest, text, path), `chunk_rows` rows a shard; the number of rows.

        Ordered by digest, so that a run that resumes cuts the shards that are left at places of its own, whatever came before.
        """
        number = f"(row_number() OVER (ORDER BY content_digest) - 1) // {chunk_rows}"
        return parquet.copy_query(
            f"SELECT {number} AS chunk, * FROM ({self._missing_sql(items)}) ORDER BY content_digest", target, temp_dir=self.root.tmp
        )

    def find_refs(self, items: Path) -> tuple[FileRef, ...]:
        """The parts that hold at least one content of the items table."""
        if not (parts := self.list_readable_parts()):
            return ()
        used = parquet.fetch_rows(
            f"SELECT DISTINCT e.filename FROM {parquet.scan_sql(*parts, options='filename=true')} e "
            f"SEMI JOIN {parquet.scan_sql(items)} i USING (content_digest) ORDER BY 1",
            temp_dir=self.root.tmp,
        )
        return tuple(self.root.make_ref(Path(name), digest=False) for (name,) in used)

    def count_truncated(self, items: Path) -> int:
        """How many items of the table the model saw only the beginning of."""
        if not (parts := self.list_readable_parts()):
            return 0
        sql = f"SELECT count(*) FROM {parquet.scan_sql(items)} SEMI JOIN (FROM {parquet.scan_sql(*parts)} WHERE truncated) USING (content_digest)"
        return int(parquet.fetch_rows(sql, temp_dir=self.root.tmp)[0][0])

    def rejected_sql(self) -> str:
        """The contents that have no vector for good, as a table for SQL with REJECTED's columns."""
        return self.rejected_parts.to_sql(REJECTED)

    def _missing_sql(self, items: Path) -> str:
        wanted = (
            "SELECT min(item_id) AS item_id, content_digest, arg_min(text, item_id) AS text, arg_min(path, item_id) AS path "
            f"FROM {parquet.scan_sql(items)} GROUP BY content_digest"
        )
        known = f"SELECT content_digest FROM {self.rejected_sql()}"
        if parts := self.list_readable_parts():
            known += f" UNION ALL SELECT content_digest FROM {parquet.scan_sql(*parts)}"
        return f"SELECT * FROM ({wanted}) ANTI JOIN ({known}) USING (content_digest)"


@contextmanager
def open_vectors(
    root: Root,
    embeddings: EmbeddingSet,
    *,
    side: Side,
    leaking: bool = True,
    shard: tuple[int, int] | None = None,
    sample: tuple[int, int] | None = None,
) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Yield blocks (item_ids int64 (n,), vectors float32 (n, dim)) of one side, ordered by item id.

    shard: (number, of) keeps the items whose id leaves `number` when divided by `of`.
    leaking: whether queries that are nearly an item of the database are among them.
    sample: (size, seed) keeps at most `size` items, drawn by a keyed hash of their ids: the same draw for the same items.
    Raises DamagedFile when an item has no vector or more than one.
    """
    chosen = f"SELECT item_id, content_digest FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = '{side}'"
    if not leaking:
        chosen += " AND NOT leak"
    if shard:
        chosen += f" AND item_id % {shard[1]} = {shard[0]}"
    if sample:
        chosen += f" ORDER BY md5('{sample[1]}/' || item_id), item_id LIMIT {sample[0]}"
    parts = parquet.scan_sql(*(root.file(ref) for ref in embeddings.files if "/part-" in ref.path))
    sql = f"SELECT i.item_id, e.embedding FROM ({chosen}) i LEFT JOIN {parts} e USING (content_digest) ORDER BY i.item_id"
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        yield _iter_blocks(batches, embeddings)


def concatenate_blocks(blocks: Iterator[tuple[np.ndarray, np.ndarray]], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """All blocks as one: item_ids int64 (n,), vectors float32 (n, dim); n may be 0. For samples, which fit into memory."""
    ids, found = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    for block_ids, block in blocks:
        ids.append(block_ids)
        found.append(block)
    return np.concatenate(ids), np.concatenate(found)


def _iter_blocks(batches: Iterator[pa.RecordBatch], embeddings: EmbeddingSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    previous = 0
    for batch in batches:
        ids = batch.column("item_id").to_numpy(zero_copy_only=False)
        column = batch.column("embedding")
        if column.null_count or np.any(np.diff(ids, prepend=previous) <= 0):
            raise DamagedFile(
                "the embedding store does not hold exactly one vector an item",
                where=f"embeddings/{embeddings.fingerprint}",
                next_step="delete that folder and build again: it is encoded anew",
            )
        previous = int(ids[-1])
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        yield ids, flat.reshape(-1, embeddings.dim)
