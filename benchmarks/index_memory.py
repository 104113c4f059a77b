"""Peak resident memory of training and filling shards: bounded by the sample and the shards being built, not by the number of items.

Each size runs in a process of its own, on random clustered vectors that another process wrote into an embedding write_store.

Run: python -m benchmarks.index_memory [--sizes 250000 500000 1000000] [--dim 384] [--factory IVF1024,Flat]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from tests.indexing.nightly import Database, draw_centers, draw_clustered

PART = 50_000


def write_store(root: Root, size: int, dim: int) -> EmbeddingSet:
    """Write random vectors into an embedding store, part by part."""
    database = Database(root, dim)
    centers = draw_centers(database.random, 1000, dim)
    for start in range(0, size, PART):
        database.insert(draw_clustered(database.random, centers, min(PART, size - start)))
        database.vectors = np.empty((0, dim), np.float32)
    return database.make_record()


def build(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, float]:
    """Build in this process. Returns peak resident bytes before and after, and seconds."""
    from indexmill.tasks.indexing.shard_builder import build_shards
    from indexmill.tasks.indexing.training import reuse_or_train

    before, start = _get_peak_bytes(), time.perf_counter()
    trained = reuse_or_train(root, "memory", embeddings, config, None)
    training, middle = _get_peak_bytes(), time.perf_counter()
    build_result = build_shards(root, "memory", embeddings, trained, config)
    return {
        "before": before,
        "training": training,
        "peak": _get_peak_bytes(),
        "shards": len(build_result.shards),
        "sampled": trained.sampled,
        "train_seconds": middle - start,
        "shard_seconds": time.perf_counter() - middle,
    }


def _get_peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print one line per size, in MB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 500_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--factory", default="IVF1024,Flat")
    parser.add_argument("--rerank", default="none")
    parser.add_argument("--step", nargs=2, metavar=("ROOT", "SIZE"), help="one size; used by the script itself")
    options = parser.parse_args()
    if options.step:
        root, size = Root(options.step[0]), int(options.step[1])
        if size:
            print(write_store(root, size, options.dim).model_dump_json())
        else:
            config = IndexConfig.model_validate({"factory": options.factory, "rerank": options.rerank})
            print(json.dumps(build(root, EmbeddingSet.model_validate_json(sys.stdin.read()), config)))
        root.close()
        return
    print("  vectors  shards  sampled  start MB  training MB  peak MB  train s  shard s")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [sys.executable, "-m", "benchmarks.index_memory", "--factory", options.factory, "--rerank", options.rerank]
            arguments += ["--dim", str(options.dim), "--step", folder]
            record = subprocess.run([*arguments, str(size)], check=True, capture_output=True, text=True).stdout
            run = subprocess.run([*arguments, "0"], input=record, check=True, capture_output=True, text=True)
            stats = json.loads(run.stdout)
            print(
                f"{size:9,}  {stats['shards']:6}  {stats['sampled']:7,}  {stats['before'] / 1e6:8.0f}  {stats['training'] / 1e6:11.0f}  "
                f"{stats['peak'] / 1e6:7.0f}  {stats['train_seconds']:7.1f}  {stats['shard_seconds']:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
