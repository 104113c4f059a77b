"""A million vectors through train, shard and tune with `index.factory: auto`: single queries at recall 0.95, memory, seconds.

The vectors are derived from real sentence embeddings: each is one of them, moved by half the difference of two others of its
neighborhood, so that they vary in the same directions as real ones. One item in 500 is a held-out query. Run with OMP_NUM_THREADS=1
for one core.

Run: OMP_NUM_THREADS=1 python -m benchmarks.million --data FOLDER [--items 1000000]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import get_peak_bytes
from benchmarks.report import Report, make_parser
from benchmarks.sentences import DIM, load_embeddings
from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import IndexShards
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.shard_builder import build_shards
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.training import reuse_or_train
from indexmill.tasks.metrics.latency import measure_search_speed
from indexmill.tasks.tune import tune
from tests.indexing.nightly import Database

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ITEMS_PER_QUERY = 500
REAL_VECTORS = 120_000
NEIGHBORHOODS = 256
PART = 50_000


def grow_vectors(real: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield `count` vectors of length 1 in blocks, float32 (PART or fewer, dim). real: float32 (n, dim)."""
    random = np.random.default_rng(0)
    clustering = faiss.Kmeans(real.shape[1], NEIGHBORHOODS, niter=8, spherical=True, seed=0)
    clustering.train(real)
    neighborhoods = clustering.index.search(real, 1)[1][:, 0]
    order = np.argsort(neighborhoods, kind="stable")
    start, size = np.searchsorted(neighborhoods[order], np.arange(NEIGHBORHOODS)), np.bincount(neighborhoods, minlength=NEIGHBORHOODS)
    for first in range(0, count, PART):
        rows = random.integers(0, len(real), min(PART, count - first))
        pair = [order[start[neighborhoods[rows]] + random.integers(0, size[neighborhoods[rows]])] for _ in range(2)]
        moved = real[rows] + (real[pair[0]] - real[pair[1]]) / 2 + random.normal(0, 1e-3, (len(rows), real.shape[1]))  # all distinct
        yield (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def write_store(root: Root, parts: Iterator[np.ndarray]) -> EmbeddingSet:
    """Write the vectors into an embedding store, part by part."""
    database = Database(root, DIM)
    for part in parts:
        database.insert(part)
        database.vectors = np.empty((0, DIM), np.float32)
    return database.make_record()


def assign_sides(root: Root, embeddings: EmbeddingSet) -> EmbeddingSet:
    """Move every 500th item, by id, to the query side."""
    table = pq.read_table(root.file(embeddings.items))
    sides = ["query" if item % ITEMS_PER_QUERY == 0 else "database" for item in table["item_id"].to_pylist()]
    path = root.path / "items" / "sided.parquet"
    table = table.set_column(table.schema.get_field_index("side"), "side", pa.array(sides, pa.string()))
    parquet.write_parquet(path, table.schema, table.to_batches())
    ref, queries = root.make_ref(path), sides.count("query")
    update = {"items": ref, "files": (ref, *embeddings.files[1:]), "database": len(sides) - queries, "query": queries}
    return embeddings.model_copy(update=update)


def measure(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, Any]:
    """Build, tune, and search for the held-out queries one by one."""
    start = time.perf_counter()
    trained = reuse_or_train(root, "million", embeddings, config, None)
    middle = time.perf_counter()
    build = build_shards(root, "million", embeddings, trained, config)
    end = time.perf_counter()
    shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=build.shards, built=0, updated=0, reused=0)
    tuned = tune.fn(root, "small", embeddings, embeddings, trained, shards, config)
    with open_vectors(root, embeddings, side="query") as blocks:
        _, queries = concatenate_blocks(blocks, embeddings.dim)
    searcher = open_searcher(build.shards, root.file, config.metric, tuned.params)
    speed = measure_search_speed(searcher, queries, threads=faiss.omp_get_max_threads())
    return {
        "factory": trained.factory,
        "spill": trained.spill,
        "shards": len(build.shards),
        "tuning": tuned.reason,
        **speed,
        "train_seconds": middle - start,
        "shard_seconds": end - middle,
        "index_bytes_per_vector": sum(shard.index.size for shard in build.shards) / embeddings.database,
        "peak_mb": get_peak_bytes() / 1e6,
    }


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the percentiles of the latency of single queries."""
    from benchmarks.plotting import draw_bars, get_bars_height, split_panels

    names = {"median": "single_query_p50_ms", "95 %": "single_query_p95_ms", "99 %": "single_query_p99_ms"}
    (axes,) = split_panels(figure, 1, height=get_bars_height(len(names)))
    draw_bars(axes, {title: results[name] for title, name in names.items()}, unit="milliseconds of a single query", text="{:.2f}")
    axes.set_title(f"{results['vectors']:,} vectors, {results['factory']}, {results['index_bytes_per_vector']:.0f} bytes per vector")


def main() -> None:
    """Print one measurement per line."""
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for the real embeddings")
    parser.add_argument("--items", type=int, default=1_000_000)
    options = parser.parse_args()
    report = Report(options)
    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder)
        items = assign_sides(root, write_store(root, grow_vectors(load_embeddings(options.data, REAL_VECTORS), options.items)))
        print(f"{items.database:,} items, {items.query:,} queries, {faiss.omp_get_max_threads()} threads")
        results = measure(root, items, IndexConfig(factory="auto"))
        for name, value in results.items():
            print(f"{name:<28} {value:,.3f}" if isinstance(value, float) else f"{name:<28} {value}")
        root.close()
    report.finish({"vectors": items.database, "queries": items.query, **results}, plot)


if __name__ == "__main__":
    main()
