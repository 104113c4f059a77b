"""Write an embedding store of any size, part by part, without an encoder: vectors in clusters, contents in digest order.

Vectors are unit vectors of CLUSTERS clusters. Clusters lie around GROUPS centers of a coarser level, and vary in
INTRINSIC_DIMS directions of their own whose variances fall like 1/(1 + i), plus a little noise in all directions: k-means
then gains from more lists, and codes from principal directions, as with real embeddings. Part i is drawn from the seed
(0, i) alone, so that memory does not grow with the number of vectors, and a smaller store is not a part of a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import EmbeddingStore, open_part
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root

GROUPS, CLUSTERS, INTRINSIC_DIMS = 64, 512, 32
GROUP_SPREAD, CLUSTER_SPREAD, NOISE = 0.9, 2.5, 0.2
WRITE_ROWS = 5_000
SCHEMA = pa.schema(
    {
        "item_id": pa.int64(),
        "content_digest": pa.string(),
        "text": pa.string(),
        "path": pa.string(),
        "side": pa.string(),
        "leak": pa.bool_(),
    }
)


class ClusteredVectors:
    """Draws vectors of `dim` dimensions."""

    def __init__(self, dim: int) -> None:
        random = np.random.default_rng(0)
        self.dim = dim
        groups = random.standard_normal((GROUPS, dim))
        offsets = GROUP_SPREAD * random.standard_normal((CLUSTERS, dim))
        self._centers = (groups[random.integers(0, GROUPS, CLUSTERS)] + offsets).astype(np.float32)
        scales = CLUSTER_SPREAD * np.sqrt(dim / INTRINSIC_DIMS / (1 + np.arange(INTRINSIC_DIMS)) * 6)
        # Clusters share their directions in eight families: otherwise the axes of 512 clusters would take much memory.
        self._axes = [np.linalg.qr(random.standard_normal((dim, INTRINSIC_DIMS)))[0].T * scales[:, None] for _ in range(8)]

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Draw float32 (count, dim), unit vectors."""
        clusters = random.integers(0, CLUSTERS, count)
        vectors = self._centers[clusters] + NOISE * random.standard_normal((count, self.dim), dtype=np.float32)
        inner = random.standard_normal((count, INTRINSIC_DIMS), dtype=np.float32)
        for family, axes in enumerate(self._axes):
            rows = np.flatnonzero(clusters % len(self._axes) == family)
            vectors[rows] += inner[rows] @ axes.astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def write_store(root: Root, items: int, dim: int, part_rows: int, queries: int) -> EmbeddingSet:
    """Write `items` vectors in parts of `part_rows`, as encoding writes them, and the items table, ordered by id.

    One item in `items / queries` is on the query side.
    """
    store, source = EmbeddingStore(root, f"scale{dim}"), ClusteredVectors(dim)
    with root.scratch.staging() as staging:
        pieces = []
        for number, first in enumerate(range(0, items, part_rows)):
            count = min(part_rows, items - first)
            random = np.random.default_rng([0, number])
            ids, digests = _draw_keys(random, first, count, items)
            with store.add_part() as temporary, open_part(temporary, dim) as part:
                for start in range(0, count, WRITE_ROWS):
                    rows = slice(start, min(start + WRITE_ROWS, count))
                    vectors = source.draw(random, rows.stop - rows.start)
                    part.write(ids[rows].tolist(), digests[rows], np.zeros(len(vectors), bool), vectors)
            pieces.append(staging / f"{number}.parquet")
            parquet.write_parquet(pieces[-1], SCHEMA, _make_rows(ids, digests, max(1, items // queries)))
        table = root.path / "items" / "items.parquet"
        table.parent.mkdir(exist_ok=True)
        parquet.copy_query(f"FROM {parquet.scan_sql(*pieces)} ORDER BY item_id", table, temp_dir=root.tmp)
    return _make_record(root, store, table, dim)


def _draw_keys(random: np.random.Generator, first: int, count: int, items: int) -> tuple[np.ndarray, list[str]]:
    """Draw random item ids, and digests in the share of their range that this part has, ascending."""
    low, high = first / items, (first + count) / items
    heads = np.sort(random.uniform(low, high, count))
    tails = random.bytes(8 * count).hex()
    digests = [f"{min(int(head * 2**64), 2**64 - 1):016x}{tails[16 * row : 16 * row + 16]}" for row, head in enumerate(heads)]
    return random.integers(1, 2**62, count), sorted(digests)


def _make_rows(ids: np.ndarray, digests: list[str], items_per_query: int) -> Iterator[pa.RecordBatch]:
    sides = ["query" if item % items_per_query == 0 else "database" for item in ids.tolist()]
    texts = pa.nulls(len(ids), pa.string())
    columns = [pa.array(ids), pa.array(digests), texts, texts, pa.array(sides), pa.array(np.zeros(len(ids), bool))]
    yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _make_record(root: Root, store: EmbeddingStore, table: Path, dim: int) -> EmbeddingSet:
    ref = root.make_ref(table, digest=False)
    counts = dict(parquet.fetch_rows(f"SELECT side, count(*) FROM {parquet.scan_sql(table)} GROUP BY 1", temp_dir=root.tmp))
    return EmbeddingSet(
        digest=json_digest([store.folder.name, parquet.compute_digest(table)]),
        files=(ref, *(root.make_ref(part, digest=False) for part in store.list_parts())),
        split="s",
        modality="text",
        fingerprint=store.folder.name,
        encoder={},
        dim=dim,
        database=counts["database"],
        query=counts["query"],
        encoded=0,
        reused=0,
        rejected=0,
        truncated=0,
        items=ref,
        rejects=None,
    )
