"""How each stage grows with the number of vectors: CPU, time, peak memory, bytes read and written, recall, and exponents.

For every size, a store of clustered vectors is written part by part (`benchmarks.scale_store`), and each stage then runs in
a process of its own through the same functions as a build: digesting the items table, planning what is missing, training,
filling shards, exact search for held-out queries, tuning, and what publishing adds. A stage that costs c n^x has the
exponent x, fitted over the sizes. Ten million vectors of 96 dimensions need about 15 GB of disk, of 384 about 50 GB.

Run: OMP_NUM_THREADS=1 python -m benchmarks.scale --items 1000000 3000000 --dim 96 [--factory auto] [--root DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.measuring import get_peak_bytes, run_child
from benchmarks.report import Report, make_parser
from benchmarks.scale_plot import plot
from benchmarks.scale_store import write_store
from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import EmbeddingStore, concatenate_blocks, open_vectors, open_vectors_by_part
from indexmill.storage.index_records import SearchParams, Shard, TrainedIndex
from indexmill.storage.part_keys import list_part_refs
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import FAISS_METRICS
from indexmill.tasks.indexing.shard_builder import BuildContext, build_shards, plan_shards
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.training import reuse_or_train
from indexmill.tasks.indexing.tuning import tune_search
from indexmill.tasks.metrics.exact_search import exact_search

NAME, K = "scale", 10
Measured = dict[str, Any]


class Work:
    """The files that the stages of one size share under `root`."""

    def __init__(self, root: Root, config: IndexConfig) -> None:
        self.root, self.config, self.folder = root, config, root.path / "work"
        self.folder.mkdir(exist_ok=True)

    def embeddings(self) -> EmbeddingSet:
        """Read the record of the store."""
        return EmbeddingSet.model_validate_json((self.folder / "embeddings.json").read_text())

    def trained(self) -> TrainedIndex:
        """Read the record of the training."""
        return TrainedIndex.model_validate_json((self.folder / "trained.json").read_text())

    def shards(self) -> list[Shard]:
        """Read the records of the shards."""
        return [Shard.model_validate(row) for row in json.loads((self.folder / "shards.json").read_text())]

    def queries(self) -> np.ndarray:
        """Read the held-out queries, float32 (n, dim)."""
        embeddings = self.embeddings()
        with open_vectors(self.root, embeddings, side="query") as blocks:
            return concatenate_blocks(blocks, embeddings.dim)[1]


def run_store(work: Work, options: argparse.Namespace) -> Measured:
    """Write the store. No part of a build: encoding would do it."""
    embeddings = write_store(work.root, options.size, options.dim, options.part_rows, options.queries)
    (work.folder / "embeddings.json").write_text(embeddings.model_dump_json())
    return {"parts": len(list_part_refs(embeddings))}


def run_digest(work: Work, _: argparse.Namespace) -> Measured:
    """Digest the items table, as ingest, validate, split and encode do."""
    return {"digest": parquet.compute_digest(work.root.file(work.embeddings().items))[:16]}


def run_missing(work: Work, options: argparse.Namespace) -> Measured:
    """Find what is missing in the store, which is nothing, and the parts in use."""
    items = work.root.file(work.embeddings().items)
    store = EmbeddingStore(work.root, f"scale{options.dim}")
    return {"missing": store.count_missing(items), "parts": len(store.find_refs(items))}


def run_train(work: Work, _: argparse.Namespace) -> Measured:
    """Train the index."""
    trained = reuse_or_train(work.root, NAME, work.embeddings(), work.config, None)
    (work.folder / "trained.json").write_text(trained.model_dump_json())
    return {"factory": trained.factory, "spill": trained.spill, "sampled": trained.sampled}


def run_assign(work: Work, _: argparse.Namespace) -> Measured:
    """Assign the items to shards, and find the parts that each needs: what the driver of a cluster does."""
    root, embeddings = work.root, work.embeddings()
    with root.scratch.staging() as folder:
        plans = plan_shards(BuildContext(root, NAME, embeddings, work.trained(), "database"), work.config, folder)
    store = sum(ref.size for ref in list_part_refs(embeddings))
    return {"shards": len(plans), "store_bytes": store, "fetched": sum(ref.size for plan in plans for ref in plan.parts) / store}


def run_shard(work: Work, _: argparse.Namespace) -> Measured:
    """Assign the items, and fill all shards."""
    build = build_shards(work.root, NAME, work.embeddings(), work.trained(), work.config)
    (work.folder / "shards.json").write_text(json.dumps([shard.model_dump(mode="json") for shard in build.shards]))
    return {"index_bytes": sum(shard.index.size for shard in build.shards), "shards": len(build.shards)}


def run_truth(work: Work, _: argparse.Namespace) -> Measured:
    """Search exactly for the held-out queries."""
    embeddings = work.embeddings()
    with open_vectors_by_part(work.root, embeddings, side="database") as blocks:
        ids = exact_search(work.queries(), blocks, K, FAISS_METRICS[work.config.metric])[1]
    np.save(work.folder / "exact.npy", ids)
    return {"queries": len(ids)}


def run_tune(work: Work, _: argparse.Namespace) -> Measured:
    """Tune the search for recall@10 of 0.95."""
    searcher = open_searcher(work.shards(), work.root.file, work.config.metric, SearchParams(spill=work.trained().spill))
    chosen = (result := tune_search(searcher, work.queries(), np.load(work.folder / "exact.npy"), 0.95, k=K)).chosen
    params = chosen.params.model_dump(exclude_none=True, exclude={"spill"})
    return {"recall": chosen.recall, "met": result.met, "ms_per_query": chosen.cpu_seconds_per_query * 1e3, **params}


def run_publish(work: Work, _: argparse.Namespace) -> Measured:
    """Fill the shards of the query side, and verify the digests of all files that a snapshot links to."""
    queries = build_shards(work.root, NAME, work.embeddings(), work.trained(), work.config, side="query")
    refs = [ref for shard in (*work.shards(), *queries.shards) for ref in shard.files]
    return {"files": len([work.root.verify_file(ref) for ref in refs]), "digest": json_digest([ref.sha256 for ref in refs])[:16]}


STAGES: dict[str, Callable[[Work, argparse.Namespace], Measured]] = {
    "store": run_store,
    "digest": run_digest,
    "missing": run_missing,
    "train": run_train,
    "assign": run_assign,
    "shard": run_shard,
    "truth": run_truth,
    "tune": run_tune,
    "publish": run_publish,
}


def run_stage(options: argparse.Namespace) -> Measured:
    """Run one stage in this process, and measure it."""
    config = IndexConfig.model_validate(
        {"factory": options.factory, "shards": options.shards, "shard_bytes": options.shard_bytes, "train_memory": options.train_memory}
    )
    root = Root(options.root)
    io_before, cpu, start = _read_io(), time.process_time(), time.perf_counter()
    result = STAGES[options.stage](Work(root, config), options)
    io = {name: value - io_before[name] for name, value in _read_io().items()}
    measured = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "peak_mb": get_peak_bytes() / 1e6,
        "read_mb": io["rchar"] / 1e6,
        "written_mb": io["wchar"] / 1e6,
    }
    root.close()
    return measured | result


def _read_io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def fit_exponent(sizes: list[int], costs: list[float]) -> float:
    """Fit x in cost = c size^x by least squares over the logarithms; NaN for fewer than two sizes."""
    if len(sizes) < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-3)), 1)[0])


def measure_size(size: int, folder: Path) -> dict[str, Measured]:
    """Run every stage for one size, each in a process of its own."""
    results = {}
    for stage in STAGES:
        step = ("--stage", stage, "--size", str(size), "--root", str(folder))
        results[stage] = run_child("-m", "benchmarks.scale", *sys.argv[1:], *step).result
        print(_format_stage(stage, results[stage]), flush=True)
    return results


def _format_stage(stage: str, measured: Measured) -> str:
    common = ("seconds", "cpu", "peak_mb", "read_mb", "written_mb")
    numbers = "".join(f"{measured[name]:>12,.1f}" for name in common)
    rest = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in measured.items() if name not in common
    )
    return f"{stage:<8}{numbers}  {rest}"


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=lambda text: int(float(text)), nargs="+", default=[1_000_000])
    parser.add_argument("--dim", type=int, default=96)
    parser.add_argument("--part-rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--factory", default="auto")
    parser.add_argument("--shards", default="auto")
    parser.add_argument("--shard-bytes", default="8MB", help="small, so that a million vectors fill several shards")
    parser.add_argument("--train-memory", default="1GB")
    parser.add_argument("--root", type=Path, help="where the stores go, one folder per size; by default a temporary one")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print one line per stage and size, and the exponents."""
    options = parse_options()
    if options.stage:
        print(json.dumps(run_stage(options)))
        return
    report = Report(options)
    base = options.root or Path(tempfile.mkdtemp(prefix="scale-"))
    results = {}
    for size in options.items:
        headings = "".join(f"{heading:>12}" for heading in ("seconds", "CPU s", "peak MB", "read MB", "written MB"))
        print(f"\n{size:,} x {options.dim}, {faiss.omp_get_max_threads()} threads\n{'':<8}{headings}", flush=True)
        folder = base / str(size)
        folder.mkdir(parents=True, exist_ok=True)
        results[size] = measure_size(size, folder)
        shutil.rmtree(folder)  # the next size needs the disk
    if len(results) > 1:
        sizes = list(results)
        print(
            "\nexponents: "
            + ", ".join(f"{stage} {fit_exponent(sizes, [results[size][stage]['cpu'] for size in sizes]):.2f}" for stage in STAGES)
        )
    report.finish({"dim": options.dim, "sizes": results}, plot)


if __name__ == "__main__":
    main()
