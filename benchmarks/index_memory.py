"""Peak resident memory of training and filling shards: bounded by the sample and the shards being built, not by the number of items.

Each size runs in a process of its own, on random clustered vectors that another process wrote into an embedding store.

Run: python -m benchmarks.index_memory [--sizes 250000 500000 1000000] [--dim 384] [--factory IVF1024,Flat]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measuring import get_peak_bytes, run_child
from benchmarks.report import Report, make_parser
from indexmill.configs.models import IndexConfig
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from tests.indexing.nightly import Database, draw_centers, draw_clustered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

    before, start = get_peak_bytes(), time.perf_counter()
    trained = reuse_or_train(root, "memory", embeddings, config, None)
    training, middle = get_peak_bytes(), time.perf_counter()
    build_result = build_shards(root, "memory", embeddings, trained, config)
    return {
        "before": before,
        "training": training,
        "peak": get_peak_bytes(),
        "shards": len(build_result.shards),
        "sampled": trained.sampled,
        "train_seconds": middle - start,
        "shard_seconds": time.perf_counter() - middle,
    }


def run_step(options: argparse.Namespace) -> None:
    """Write the store of one size, or build from the one that was written; print the measurements."""
    root, size = Root(options.step[0]), int(options.step[1])
    record = root.path / "embeddings.json"
    if size:
        record.write_text(write_store(root, size, options.dim).model_dump_json())
    else:
        config = IndexConfig.model_validate({"factory": options.factory, "rerank": options.rerank})
        print(json.dumps(build(root, EmbeddingSet.model_validate_json(record.read_text()), config)))
    root.close()


def measure_size(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Write a store and build from it, each in a process of its own."""
    arguments = ["-m", "benchmarks.index_memory", "--factory", options.factory, "--rerank", options.rerank, "--dim", str(options.dim)]
    with tempfile.TemporaryDirectory() as folder:
        run_child(*arguments, "--step", folder, str(size))
        return {"vectors": size, **run_child(*arguments, "--step", folder, "0").result}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw peak memory over the number of vectors."""
    from benchmarks.plotting import draw_lines, split_panels

    rows = results["sizes"]
    vectors = [row["vectors"] / 1000 for row in rows]
    (axes,) = split_panels(figure, 1, height=3.6)
    names = {"peak of the build": "peak", "after training": "training", "before": "before"}
    axes.set_ylim(0, 1.1 * max(row["peak"] / 1e6 for row in rows))
    series = {title: (vectors, [row[name] / 1e6 for row in rows]) for title, name in names.items()}
    draw_lines(axes, series, xlabel="thousand vectors", ylabel="resident memory, MB")


def main() -> None:
    """Print one line per size, in MB."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 500_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--factory", default="IVF1024,Flat")
    parser.add_argument("--rerank", default="none")
    parser.add_argument("--step", nargs=2, metavar=("ROOT", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        run_step(options)
        return
    report, rows = Report(options), []
    print("  vectors  shards  sampled  start MB  training MB  peak MB  train s  shard s")
    for size in options.sizes:
        rows.append(stats := measure_size(size, options))
        print(
            f"{size:9,}  {stats['shards']:6}  {stats['sampled']:7,}  {stats['before'] / 1e6:8.0f}  {stats['training'] / 1e6:11.0f}  "
            f"{stats['peak'] / 1e6:7.0f}  {stats['train_seconds']:7.1f}  {stats['shard_seconds']:7.1f}",
            flush=True,
        )
    report.finish({"factory": options.factory, "dim": options.dim, "sizes": rows}, plot)


if __name__ == "__main__":
    main()
