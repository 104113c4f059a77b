"""The embedding store: (encoder fingerprint, content digest) -> vector, as Parquet parts that are only ever added.

A part has the columns `item_id` (int64: an item that had this content when it was encoded), `content_digest` (string) and
`embedding` (fixed-size list of float32). A content stands in one part only, because its writers hold the store's lease.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage import tables
from storage.errors import DamagedFile
from storage.parts import Parts
from storage.records import EmbeddingSet, FileRef, Side
from storage.root import Root


class EmbeddingStore(Parts):
    """The vectors of one encoder under one root."""

    def __init__(self, root: Root, fingerprint: str) -> None:
        super().__init__(root, root.embeddings(fingerprint))

    @property
    def dim(self) -> int:
        """Length of the vectors, read from a part's schema; there must be a part."""
        return int(pq.read_schema(self.paths()[0]).field("embedding").type.list_size)

    def count_missing(self, items: Path) -> int:
        """How many distinct contents of the items table have no vector yet."""
        return int(tables.rows(f"SELECT count(*) FROM ({self._missing_sql(items)})", spill=self.root.tmp)[0][0])

    @contextmanager
    def missing(self, items: Path) -> Iterator[Iterator[pa.RecordBatch]]:
        """The distinct contents without a vector, ordered by digest, as batches (item_id, content_digest, text, path)."""
        with tables.query(self._missing_sql(items) + " ORDER BY content_digest", spill=self.root.tmp) as batches:
            yield batches

    def add_vectors(self, item_ids: list[int], digests: list[str], vectors: np.ndarray) -> Path:
        """Commit one part. vectors: float32 (n, dim), n > 0, row i for item_ids[i] and digests[i]."""
        dim = vectors.shape[1]
        schema = pa.schema({"item_id": pa.int64(), "content_digest": pa.string(), "embedding": pa.list_(pa.float32(), dim)})
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        columns = [pa.array(item_ids, pa.int64()), pa.array(digests), pa.FixedSizeListArray.from_arrays(flat, dim)]
        return self.add(pa.RecordBatch.from_arrays(columns, schema=schema))

    def refs(self, items: Path) -> tuple[FileRef, ...]:
        """The parts that hold at least one content of the items table."""
        if not (parts := self.paths()):
            return ()
        used = tables.rows(
            f"SELECT DISTINCT e.filename FROM {tables.parquet(*parts, options='filename=true')} e "
            f"SEMI JOIN {tables.parquet(items)} i USING (content_digest) ORDER BY 1",
            spill=self.root.tmp,
        )
        return tuple(self.root.ref(Path(name), digest=False) for (name,) in used)

    def _missing_sql(self, items: Path) -> str:
        wanted = (
            "SELECT min(item_id) AS item_id, content_digest, arg_min(text, item_id) AS text, arg_min(path, item_id) AS path "
            f"FROM {tables.parquet(items)} GROUP BY content_digest"
        )
        if not (parts := self.paths()):
            return wanted
        return f"SELECT * FROM ({wanted}) ANTI JOIN {tables.parquet(*parts)} USING (content_digest)"


@contextmanager
def vectors(
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
    chosen = f"SELECT item_id, content_digest FROM {tables.parquet(root.file(embeddings.items))} WHERE side = '{side}'"
    if not leaking:
        chosen += " AND NOT leak"
    if shard:
        chosen += f" AND item_id % {shard[1]} = {shard[0]}"
    if sample:
        chosen += f" ORDER BY md5('{sample[1]}/' || item_id), item_id LIMIT {sample[0]}"
    parts = tables.parquet(*(root.file(ref) for ref in embeddings.files if "/part-" in ref.path))
    sql = f"SELECT i.item_id, e.embedding FROM ({chosen}) i LEFT JOIN {parts} e USING (content_digest) ORDER BY i.item_id"
    with tables.query(sql, spill=root.tmp) as batches:
        yield _blocks(batches, embeddings)


def joined(blocks: Iterator[tuple[np.ndarray, np.ndarray]], dim: int) -> tuple[np.ndarray, np.ndarray]:
    """All blocks as one: item_ids int64 (n,), vectors float32 (n, dim); n may be 0. For samples, which fit into memory."""
    ids, found = [np.empty(0, np.int64)], [np.empty((0, dim), np.float32)]
    for block_ids, block in blocks:
        ids.append(block_ids)
        found.append(block)
    return np.concatenate(ids), np.concatenate(found)


def _blocks(batches: Iterator[pa.RecordBatch], embeddings: EmbeddingSet) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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
        yield ids, column.flatten().to_numpy(zero_copy_only=False).reshape(-1, embeddings.dim)
