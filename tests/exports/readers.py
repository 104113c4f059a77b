"""Each format, opened and asked by the library that it is made for: the ids of the nearest items, and their rows.

The libraries take seconds to import, so that each is imported when it is first needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psycopg
import pyarrow.parquet as pq

TABLE = "drawn_vectors"
OPERATORS = {"cosine": "<=>", "ip": "<#>", "l2": "<->"}
Neighbors = list[list[int]]
Rows = dict[int, dict[str, Any]]


def open_embedding_reader(folder: str, **options: Any) -> Any:
    """The version that installs beside our pins cannot list folders with this fsspec. What it reads and how is its own."""
    import fsspec
    from embedding_reader import EmbeddingReader, numpy_reader, parquet_reader

    for module in (numpy_reader, parquet_reader):
        module.get_file_list = lambda folder, suffix: (fsspec.filesystem("file"), sorted(map(str, Path(folder).glob(f"**/*.{suffix}"))))
    return EmbeddingReader(folder, **options)


def read_parquet(to: str, queries: np.ndarray, metric: str) -> tuple[Neighbors, Rows]:
    """embedding-reader, as autofaiss uses it, and a brute-force search."""
    reader = open_embedding_reader(to, file_format="parquet", embedding_column="embedding", meta_columns=["item_id"])
    vectors, meta = zip(*reader(batch_size=64, show_progress=False), strict=True)
    ids = np.concatenate([table["item_id"].to_numpy() for table in meta])
    return _search(np.concatenate(vectors), ids, queries, metric), _key_rows(pq.read_table(to).drop(["embedding"]).to_pylist())


def read_npy(to: str, queries: np.ndarray, metric: str) -> tuple[Neighbors, Rows]:
    """embedding-reader, and the metadata in the same order, as clip-retrieval expects them."""
    vectors = np.concatenate([batch for batch, _ in open_embedding_reader(f"{to}/text_emb", file_format="npy")(64, show_progress=False)])
    rows = [row for path in sorted(Path(to, "metadata").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert all(row["caption"] == row["text"] for row in rows)
    return _search(vectors, np.array([row["item_id"] for row in rows]), queries, metric), _key_rows(rows)


def read_faiss(to: str, queries: np.ndarray, metric: str) -> tuple[Neighbors, Rows]:
    index = faiss.read_index(f"{to}/merged.faiss")
    return index.search(queries, 10)[1].tolist(), _key_rows(pq.read_table(f"{to}/metadata.parquet").to_pylist())


def read_hnswlib(to: str, queries: np.ndarray, metric: str) -> tuple[Neighbors, Rows]:
    import hnswlib

    description = json.loads(Path(to, "_export.json").read_text())
    index = hnswlib.Index(space=description["space"], dim=description["dim"])
    index.load_index(f"{to}/{description['index']}")
    index.set_ef(description["rows"])
    return index.knn_query(queries, k=10)[0].astype(np.int64).tolist(), _key_rows(pq.read_table(f"{to}/metadata.parquet").to_pylist())


def read_lancedb(to: str, queries: np.ndarray, metric: str) -> tuple[Neighbors, Rows]:
    import lancedb

    table = lancedb.connect(to).open_table(TABLE)
    distance = {"cosine": "cosine", "ip": "dot", "l2": "l2"}[metric]
    # Its index holds quantized vectors, so the candidates are refined with the whole ones.
    found = [
        table.search(query, vector_column_name="embedding").distance_type(distance).ef(300).refine_factor(10).limit(10) for query in queries
    ]
    return [[row["item_id"] for row in search.to_list()] for search in found], _key_rows(table.to_arrow().drop(["embedding"]).to_pylist())


def read_pgvector(to: str, queries: np.ndarray, metric: str) -> tuple[Neighbors, Rows]:
    from pgvector.psycopg import register_vector

    with psycopg.connect(to, row_factory=psycopg.rows.dict_row) as connection:
        register_vector(connection)
        connection.execute("SET hnsw.ef_search = 400; SET enable_seqscan = off")
        nearest = f"SELECT item_id FROM {TABLE} ORDER BY embedding {OPERATORS[metric]} %s LIMIT 10"
        plan = connection.execute(f"EXPLAIN {nearest}", [queries[0]]).fetchall()
        assert "Index Scan" in str(plan)
        neighbors = [[row["item_id"] for row in connection.execute(nearest, [query])] for query in queries]
        return neighbors, _key_rows(connection.execute(f"SELECT * FROM {TABLE}").fetchall())


def read_qdrant(to: str, queries: np.ndarray, metric: str) -> tuple[Neighbors, Rows]:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=to)
    try:
        neighbors = [[point.id for point in client.query_points(TABLE, query=query.tolist(), limit=10).points] for query in queries]
        points = client.scroll(TABLE, limit=100_000)[0]
        return neighbors, {point.id: point.payload or {} for point in points}
    finally:
        client.close()


READERS: dict[str, Callable[[str, np.ndarray, str], tuple[Neighbors, Rows]]] = {
    "parquet": read_parquet,
    "npy": read_npy,
    "faiss": read_faiss,
    "hnswlib": read_hnswlib,
    "lancedb": read_lancedb,
    "pgvector": read_pgvector,
    "qdrant": read_qdrant,
}


def _search(vectors: np.ndarray, ids: np.ndarray, queries: np.ndarray, metric: str) -> Neighbors:
    distances = ((queries[:, None] - vectors[None]) ** 2).sum(axis=2) if metric == "l2" else -queries @ vectors.T
    return ids[np.argsort(distances, axis=1)[:, :10]].tolist()


def _key_rows(rows: list[dict[str, Any]]) -> Rows:
    return {row["item_id"]: row for row in rows}
