"""Peak resident memory of training and filling shards: bounded by the sample and the shards in hand, not by the number of items.

Each size runs in a process of its own, on random clustered vectors that another process has put into an embedding store.

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


def store(root: Root, size: int, dim: int) -> EmbeddingSet:
    """Vectors in an embedding store, made and written part by part, and the record of them."""
    database = Database(root, dim)
    around = draw_centers(database.random, 1000, dim)
    for start in range(0, size, PART):
        database.insert(draw_clustered(database.random, around, min(PART, size - start)))
        database.vectors = np.empty((0, dim), np.float32)
    return database.make_record()


def built(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> dict[str, float]:
    """Build in this process: peak resident bytes before and after, seconds."""
    from indexmill.tasks.indexing.shard_builder import build_shards
    from indexmill.tasks.indexing.training import reuse_or_train

    before, start = _peak(), time.perf_counter()
    trained = reuse_or_train(root, "memory", embeddings, config, None)
    training, middle = _peak(), time.perf_counter()
    filled = build_shards(root, "memory", embeddings, trained, config)
    return {"before": before, "training": training, "peak": _peak(), "shards": len(filled.shards), "sampled": trained.sampled,
            "train_seconds": middle - start, "shard_seconds": time.perf_counter() - middle}  # fmt: skip


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print one line a size, in MB."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 500_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--factory", default="IVF1024,Flat")
    parser.add_argument("--rerank", default="none")
    parser.add_argument("--step", nargs=2, metavar=("ROOT", "SIZE"), help="one size: used by this script itself")
    options = parser.parse_args()
    if options.step:
        root, size = Root(options.step[0]), int(options.step[1])
        if size:
            print(store(root, size, options.dim).model_dump_json())
        else:
            config = IndexConfig.model_validate({"factory": options.factory, "rerank": options.rerank})
            print(json.dumps(built(root, EmbeddingSet.model_validate_json(sys.stdin.read()), config)))
        root.close()
        return
    print("  vectors  shards  sampled  start MB  training MB  peak MB  train s  shard s")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [sys.executable, "-m", "benchmarks.index_memory", "--factory", options.factory, "--rerank", options.rerank]
            arguments += ["--dim", str(options.dim), "--step", folder]
            record = subprocess.run([*arguments, str(size)], check=True, capture_output=True, text=True).stdout
            run = subprocess.run([*arguments, "0"], input=record, check=True, capture_output=True, text=True)
            found = json.loads(run.stdout)
            print(
                f"{size:9,}  {found['shards']:6}  {found['sampled']:7,}  {found['before'] / 1e6:8.0f}  {found['training'] / 1e6:11.0f}  "
                f"{found['peak'] / 1e6:7.0f}  {found['train_seconds']:7.1f}  {found['shard_seconds']:7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
