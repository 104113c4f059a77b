"""Nightly builds without a data set or an encoder: vectors are inserted, replaced and deleted directly in an embedding
store.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import pyarrow as pa

from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.digests import content_digest
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.index_records import SearchParams, Shard, TrainedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import find_ivf
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.shard_builder import ShardBuild, build_shards
from indexmill.tasks.indexing.shard_store import read_index
from indexmill.tasks.indexing.training import reuse_or_train
from tests.storage.embedding_parts import add_vectors

SCHEMA = pa.schema({"item_id": pa.int64(), "content_digest": pa.string(), "side": pa.string(), "leak": pa.bool_()})


class Database:
    """The database side of a data set: ids, content digests, vectors. All randomness comes from one seed."""

    def __init__(self, root: Root, dim: int, seed: int = 0) -> None:
        self.root, self.dim, self.random = root, dim, np.random.default_rng(seed)
        self.store = EmbeddingStore(root, "f" * 8)
        self.ids, self.digests = np.empty(0, np.int64), np.empty(0, object)
        self.vectors = np.empty((0, dim), np.float32)

    def insert(self, vectors: np.ndarray) -> None:
        """Insert items with these vectors under random ids, like those of real items."""
        ids = self.random.integers(1, 2**62, len(vectors))
        self.ids, self.digests = np.concatenate([self.ids, ids]), np.concatenate([self.digests, self._add_to_store(ids, vectors)])
        self.vectors = np.concatenate([self.vectors, vectors.astype(np.float32)])

    def replace(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Give items other contents under the same ids."""
        self.vectors[rows], self.digests[rows] = vectors, self._add_to_store(self.ids[rows], vectors)

    def delete(self, rows: np.ndarray) -> None:
        """Delete items; their vectors stay in the store."""
        remaining = np.setdiff1d(np.arange(len(self.ids)), rows)
        self.ids, self.digests, self.vectors = self.ids[remaining], self.digests[remaining], self.vectors[remaining]

    def draw_rows(self, count: int) -> np.ndarray:
        """Draw rows at random."""
        return self.random.choice(len(self.ids), count, replace=False)

    def make_record(self) -> EmbeddingSet:
        """Write the items table, and return its record."""
        order = np.argsort(self.ids)
        columns = [pa.array(self.ids[order]), pa.array(self.digests[order].tolist(), pa.string())]
        columns += [pa.array(["database"] * len(order)), pa.array([False] * len(order))]
        path = self.root.path / "items" / f"{content_digest(self.ids.tobytes() + self.vectors.tobytes())}.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_parquet(path, SCHEMA, [pa.RecordBatch.from_arrays(columns, schema=SCHEMA)])
        ref = self.root.make_ref(path)
        return EmbeddingSet(
            digest=path.stem,
            files=(ref, *self.store.find_refs(path)),
            split="s",
            modality="text",
            fingerprint=self.store.folder.name,
            encoder={},
            dim=self.dim,
            database=len(order),
            query=0,
            encoded=0,
            reused=0,
            rejected=0,
            truncated=0,
            items=ref,
            rejects=None,
        )

    def _add_to_store(self, ids: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        digests = [content_digest(vector.astype(np.float32).tobytes()) for vector in vectors]
        add_vectors(self.store, ids.tolist(), digests, vectors.astype(np.float32))
        return np.array(digests, object)


def run_build(
    root: Root, name: str, database: Database, config: IndexConfig, last: TrainedIndex | None = None, previous: Sequence[Shard] = ()
) -> tuple[TrainedIndex, ShardBuild]:
    """Train or reuse an index, and build its shards."""
    tonight = database.make_record()
    trained = reuse_or_train(root, name, tonight, config, last)
    return trained, build_shards(root, name, tonight, trained, config, previous=previous)


def make_searcher(root: Root, filled: ShardBuild, config: IndexConfig, nprobe: int) -> Searcher:
    """Open a searcher over all shards."""
    return Searcher(
        [read_index(root.file(shard.index), shard.index) for shard in filled.shards], config.metric, SearchParams(nprobe=nprobe)
    )


def read_ids(root: Root, shard: Shard) -> np.ndarray:
    """Read the ids that a FAISS file holds, ascending, as often as it holds them."""
    index = read_index(root.file(shard.index), shard.index)
    ivf = find_ivf(index)
    if ivf is None:
        return np.sort(faiss.vector_to_array(index.id_map))
    lists = ivf.invlists
    parts = [faiss.rev_swig_ptr(lists.get_ids(number), size).copy() for number in range(ivf.nlist) if (size := lists.list_size(number))]
    return np.sort(np.concatenate(parts))


def draw_clustered(random: np.random.Generator, centers: np.ndarray, count: int, spread: float = 0.35) -> np.ndarray:
    """Draw unit vectors around random centers."""
    chosen = centers[random.integers(0, len(centers), count)]
    return normalize(chosen + spread / np.sqrt(centers.shape[1]) * random.standard_normal((count, centers.shape[1])))


def draw_centers(random: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Draw unit vectors in float64."""
    vectors = random.standard_normal((count, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def normalize(vectors: np.ndarray) -> np.ndarray:
    """Scale float32 vectors to length 1."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
