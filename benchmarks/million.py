"""A million vectors through train, shard and tune with `index.factory: auto`: single queries at recall 0.95, memory, seconds.

Vectors are random and clustered; one item in 500 is a held-out query. Run with OMP_NUM_THREADS=1 for one core.

Run: OMP_NUM_THREADS=1 python -m benchmarks.million [--items 1000000] [--dim 384]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from typing import Any

import faiss
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.index_memory import store
from configs.models import IndexConfig
from storage import tables
from storage.embeddings import joined, vectors
from storage.index_records import IndexShards
from storage.records import EmbeddingSet
from storage.root import Root
from tasks.indexes.opening import open_searcher
from tasks.indexes.reuse import trained_for
from tasks.indexes.shards import fill_shards
from tasks.measures.speed import search_speed
from tasks.tune import tune

ONE_QUERY_IN = 500


def sided(root: Root, embeddings: EmbeddingSet) -> EmbeddingSet:
    """The same set with every 500th item, by its id, on the query side."""
    table = pq.read_table(root.file(embeddings.items))
    sides = ["query" if item % ONE_QUERY_IN == 0 else "database" for item in table["item_id"].to_pylist()]
    path = root.path / "items" / "sided.parquet"
    table = table.set_column(table.schema.get_field_index("side"), "side", pa.array(sides, pa.string()))
    tables.write_parquet(path, table.schema, table.to_batches())
    ref, queries = root.ref(path), sides.count("query")
    update = {"items": ref, "files": (ref, *embeddings.files[1:]), "database": len(sides) - queries, "query": queries}
    return embeddings.model_copy(update=update)


def measured(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, Any]:
    """Build, tune, and ask the held-out queries one by one."""
    start = time.perf_counter()
    trained = trained_for(root, "million", embeddings, config, None)
    middle = time.perf_counter()
    filled = fill_shards(root, "million", embeddings, trained, "database", config, (), lambda items: None)
    end = time.perf_counter()
    shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=filled.shards, built=0, updated=0, reused=0)
    tuned = tune.fn(root, embeddings, embeddings, trained, shards, config)
    with vectors(root, embeddings, side="query") as blocks:
        _, queries = joined(blocks, embeddings.dim)
    searcher = open_searcher(filled.shards, root.file, config.metric, tuned.setting)
    speed = search_speed(searcher, queries)
    return {
        "factory": trained.factory, "spill": trained.spill, "shards": len(filled.shards), "tuning": tuned.reason, **speed,
        "train_seconds": middle - start, "shard_seconds": end - middle, "index_bytes_a_vector": sum(s.index.size for s in filled.shards)
        / embeddings.database, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def main() -> None:
    """Print one figure a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Root(folder)
        embeddings = sided(root, store(root, options.items, options.dim))
        print(f"{embeddings.database:,} items, {embeddings.query:,} queries, {faiss.omp_get_max_threads()} threads")
        for name, value in measured(root, embeddings, IndexConfig(factory="auto")).items():
            print(f"{name:<28} {value:,.3f}" if isinstance(value, float) else f"{name:<28} {value}")
        root.close()


if __name__ == "__main__":
    main()
