"""The embedding store: (encoder fingerprint, content digest) -> vector, in append-only Parquet parts.

Columns of a part: `item_id` (int64, an item that had this content when it was encoded), `content_digest` (string),
`truncated` (bool, the model saw only the beginning of the content) and `embedding` (fixed-size list of float32 or
float16). A content is in exactly one part, because writers hold the store's lease. Contents that have no usable vector
are in `rejected-00000.parquet` and so on (content_digest, reason, message), so that later builds do not encode them
again. `keys-*.parquet` list the contents of each part (`storage.part_keys`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import DamagedFile
from indexmill.storage.part_folder import PartFolder
from indexmill.storage.part_keys import (
    find_parts,
    has_keys,
    list_part_refs,
    remove_keys,
    scan_keys_sql,
    write_keys,
)
from indexmill.storage.records import EmbeddingSet, FileRef, Side
from indexmill.storage.root import Root
from indexmill.storage.stopping import Stopped

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
        return int(pq.read_schema(self.root.fetch(self.list_readable_parts()[0])).field("embedding").type.list_size)

    @contextmanager
    def add_part(self, number: int | None = None) -> Iterator[Path]:
        """Yield a temporary path that becomes a part, after its keys, when the block ends without an error."""
        with super().add_part(number) as temporary:
            yield temporary
            with suppress(Stopped):  # the commit of the part, which comes next, stops the run
                write_keys(self.root, temporary, self.folder)

    def drop_damaged(self) -> list[Path]:
        """Remove damaged parts and return them; write the keys that are missing. The caller holds the lease."""
        damaged = super().drop_damaged()
        for part in damaged:
            remove_keys(self.root, part)
        for part in self.list_parts():
            if not has_keys(self.root, part):
                write_keys(self.root, self.root.fetch(part), self.folder)
        return damaged

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
        sql = (
            f"SELECT DISTINCT k.part FROM {scan_keys_sql(self.root, parts)} k SEMI JOIN {parquet.scan_sql(items)} i USING (content_digest)"
        )
        used = {number for (number,) in parquet.fetch_rows(sql, temp_dir=self.root.tmp)}
        return tuple(self.root.make_ref(part, digest=False) for part in parts if self.get_number(part) in used)

    def count_truncated(self, items: Path) -> int:
        """Count the items of the table of which the model saw only the beginning."""
        if not (parts := self.list_readable_parts()):
            return 0
        truncated = f"SELECT content_digest FROM {scan_keys_sql(self.root, parts)} WHERE truncated"
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
            known_digests += f" UNION ALL SELECT content_digest FROM {scan_keys_sql(self.root, parts)}"
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
    item_ids: np.ndarray | None = None,
) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Yield an iterator over blocks of one side, ordered by item id: ids int64 (n,) and vectors float32 (n, dim).

    Args:
        root: The root of the embedding store.
        embeddings: The items and the parts with their vectors.
        side: "database" or "query".
        leaking: Include queries that are nearly equal to an item of the database.
        sample: (size, seed). At most `size` items: the same items give the same sample. Of the database, `size` distinct
            contents that follow each other in the order of their digests (`_write_database_sample`), which are in few parts,
            and no other part is read; of the queries, items drawn by a keyed hash of their ids.
        digests: Only contents from the first digest up to, and without, the second. Only the parts that hold them are read.
        item_ids: Only these items, int64 (n,). Only the parts that hold them are read.

    An item in chunks has the vector of its first chunk. Vectors longer than the set's `dim` are cut to it (`shorten_vectors`).

    Raises:
        DamagedFile: when an item does not have exactly one vector.
    """
    items = _items_sql(root, embeddings, side, leaking=leaking)
    with root.scratch.staging() as staging:
        parts = list_part_refs(embeddings)
        if digests:
            items += f" AND content_digest >= '{digests[0]}' AND content_digest < '{digests[1]}'"
            parts = find_parts(root, embeddings, items).get((), parts)
        if item_ids is not None:
            pq.write_table(pa.table({"item_id": pa.array(item_ids, pa.int64())}), staging / "chosen.parquet")
            items += f" AND item_id IN (SELECT item_id FROM {parquet.scan_sql(staging / 'chosen.parquet')})"
            parts = find_parts(root, embeddings, items).get((), parts)
        if sample:
            size, seed = sample
            table = staging / "sample.parquet"
            if side == "database":
                _write_database_sample(root, items, size, seed, table)
            else:
                parquet.copy_query(f"{items} ORDER BY md5('{seed}/' || item_id), item_id LIMIT {size}", table, temp_dir=root.tmp)
            items = f"SELECT item_id, content_digest FROM {parquet.scan_sql(table)}"
            parts = find_parts(root, embeddings, items).get((), parts)
        vectors = parquet.scan_sql(*(root.file(ref) for ref in parts))
        sql = f"SELECT i.item_id, e.embedding FROM ({items}) i LEFT JOIN {vectors} e USING (content_digest) ORDER BY i.item_id"
        with parquet.query(sql, temp_dir=root.tmp) as batches:
            yield _iter_blocks(batches, embeddings)


@contextmanager
def open_vectors_by_part(root: Root, embeddings: EmbeddingSet, *, side: Side) -> Iterator[Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Yield an iterator over blocks of one side, part by part, by ascending item id within a part: as `open_vectors`, but
    nothing larger than a part is sorted. For exact search, to which the order does not matter.

    Raises:
        DamagedFile: when an item does not have exactly one vector.
    """
    refs = list_part_refs(embeddings)
    with root.scratch.staging() as staging:
        located = staging / "located.parquet"
        keys = scan_keys_sql(root, [root.path / ref.path for ref in refs])
        items = _items_sql(root, embeddings, side)
        sql = f"SELECT k.part, i.item_id, i.content_digest FROM ({items}) i LEFT JOIN {keys} k USING (content_digest) ORDER BY 1, 2"
        rows = parquet.copy_query(sql, located, temp_dir=root.tmp)
        counts_sql = f"SELECT (SELECT count(*) FROM ({items})), count(*) FILTER (part IS NULL) FROM {parquet.scan_sql(located)}"
        if parquet.fetch_rows(counts_sql, temp_dir=root.tmp) != [(rows, 0)]:
            raise _build_vector_error(embeddings)
        yield _iter_parts(root, embeddings, located, refs)


def _write_database_sample(root: Root, items: str, size: int, seed: int, target: Path) -> None:
    """Write a sample of items (item_id, content_digest): distinct contents that follow each other by digest.

    Digests are hashes, so what follows a digest that depends on the seed alone is a random sample of the contents, and
    a store that was filled in the order of digests has it in `size / contents` of its parts. Of items with one content,
    the first by id is drawn; the others follow once every content is.

    Args:
        root: Its folder for temporary files is used.
        items: A SELECT of item_id and content_digest.
        size: The largest number of items.
        seed: Where the sample begins.
        target: The table to write.
    """
    start = content_digest(str(seed).encode())
    order = f"content_digest < '{start}', content_digest, item_id"
    first_of_content = "row_number() OVER (PARTITION BY content_digest ORDER BY item_id)"
    nearest = f"SELECT * FROM ({items}) ORDER BY {order} LIMIT {2 * size}"
    sql = f"SELECT * FROM ({nearest}) QUALIFY {first_of_content} = 1 ORDER BY {order} LIMIT {size}"
    if parquet.copy_query(sql, target, temp_dir=root.tmp) < size:  # many items have the same content, or there are few
        sql = f"SELECT * FROM ({items}) ORDER BY {first_of_content}, {order} LIMIT {size}"
        parquet.copy_query(sql, target, temp_dir=root.tmp)


def shorten_vectors(vectors: np.ndarray, dim: int, *, normalize: bool) -> np.ndarray:
    """Keep the first `dim` numbers of each vector, as `truncate_dim` of sentence-transformers does, and then normalize.

    That the whole vectors may have been normalized before changes only their length, and so nothing.

    Args:
        vectors: float32 (n, at least dim).
        dim: The numbers to keep.
        normalize: Whether to scale the result to unit length.

    Returns:
        float32 (n, dim).
    """
    shortened = np.ascontiguousarray(vectors[:, :dim], dtype=np.float32)
    if not normalize:
        return shortened
    norms: np.ndarray = np.linalg.norm(shortened, axis=1, keepdims=True)
    return shortened / np.maximum(norms, np.finfo(np.float32).tiny)


def read_items(root: Root, embeddings: EmbeddingSet, item_ids: np.ndarray, side: Side = "database") -> tuple[np.ndarray, np.ndarray]:
    """Read the vectors of some items of one side: ids int64 (n,), ascending, and vectors float32 (n, dim)."""
    if not len(item_ids):
        return np.empty(0, np.int64), np.empty((0, embeddings.dim), np.float32)
    with open_vectors(root, embeddings, side=side, item_ids=item_ids) as blocks:
        return concatenate_blocks(blocks, embeddings.dim)


def concatenate_blocks(blocks: Iterator[tuple[np.ndarray, np.ndarray]], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate all blocks to ids int64 (n,) and vectors float32 (n, dim); n may be 0.

    Use it for samples, which fit in memory.
    """
    ids, vectors = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    for block_ids, block_vectors in blocks:
        ids.append(block_ids)
        vectors.append(block_vectors)
    return np.concatenate(ids), np.concatenate(vectors)


def _items_sql(root: Root, embeddings: EmbeddingSet, side: Side, *, leaking: bool = True) -> str:
    table = parquet.scan_sql(root.file(embeddings.indexed_vectors.items))
    if embeddings.chunks:
        table = f"(SELECT parent_id AS item_id, content_digest, side, leak FROM {table} WHERE chunk = 0)"
    items = f"SELECT item_id, content_digest FROM {table} WHERE side = '{side}'"
    return items if leaking else items + " AND NOT leak"


def _iter_parts(root: Root, embeddings: EmbeddingSet, located: Path, refs: Sequence[FileRef]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the vectors of the items in `located` (part, item_id, content_digest), ordered by part."""
    table = parquet.scan_sql(located)
    numbers = [number for (number,) in parquet.fetch_rows(f"SELECT DISTINCT part FROM {table} ORDER BY 1", temp_dir=root.tmp)]
    paths = {int(Path(ref.path).stem.removeprefix("part-")): root.path / ref.path for ref in refs}
    for number in numbers:
        chosen = f"SELECT item_id, content_digest FROM {table} WHERE part = {number}"
        vectors = parquet.scan_sql(root.fetch(paths[number]))
        sql = f"SELECT i.item_id, e.embedding FROM ({chosen}) i LEFT JOIN {vectors} e USING (content_digest) ORDER BY i.item_id"
        with parquet.query(sql, temp_dir=root.tmp) as batches:
            yield from _iter_blocks(batches, embeddings)


def _iter_blocks(batches: Iterator[pa.RecordBatch], embeddings: EmbeddingSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    previous_id = 0
    for batch in batches:
        ids = batch.column("item_id").to_numpy(zero_copy_only=False)
        column = batch.column("embedding")
        if column.null_count or np.any(np.diff(ids, prepend=previous_id) <= 0):
            raise _build_vector_error(embeddings)
        previous_id = int(ids[-1])
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        if embeddings.stored is None:
            yield ids, values.reshape(-1, embeddings.dim)
        else:
            yield ids, shorten_vectors(values.reshape(-1, embeddings.stored.dim), embeddings.dim, normalize=embeddings.stored.normalize)


def _build_vector_error(embeddings: EmbeddingSet) -> DamagedFile:
    return DamagedFile(
        "the embedding store does not hold exactly one vector per item",
        where=f"embeddings/{embeddings.store_fingerprint}",
        next_step="delete that folder and build again, which encodes everything again",
    )
