"""Encoding: Indexmill compared with the bare model, the tutorial loop and peers, on the same items and weights, interleaved.

Images are Caltech-101's and sentences SICK's, from the folder in INDEXMILL_REAL_DATA; weights are real for MiniLM and random for the image
models, which does not change the rates. Every variant has a process of its own, is warmed up, and runs once per repeat, in rotating order.
Slow variants encode a quarter of the items. Instead, `--memory` measures peak memory, `--costs` the CPU time of each step from an image's
file to its vector, and `--runtimes` float32 and 8-bit models by torch and by ONNX Runtime; the last two use one thread.

Run: INDEXMILL_REAL_DATA=DIR python -m benchmarks.encode [--peers-venv DIR]
     INDEXMILL_REAL_DATA=DIR python -m benchmarks.encode --memory
     INDEXMILL_REAL_DATA=DIR OMP_NUM_THREADS=1 python -m benchmarks.encode --costs --items 48 (or --runtimes)
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.encoding import costs, memory, report, runtimes
from benchmarks.encoding.children import Child
from benchmarks.encoding.clip_retrieval import ClipRetrieval, ensure_installed
from benchmarks.encoding.items import sample_images, sample_sentences
from benchmarks.encoding.models import MODELS, Environment, Model, describe_environment, write_weights
from benchmarks.encoding.results import DEFAULTS, FORWARD, OPENED, OURS, PEER, TUTORIAL, Row, compare_targets, compute_limits
from benchmarks.encoding.variants import Factory, Forward, LibraryDefault, Opened, Ours, Tutorial, Work
from benchmarks.report import Report, make_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLOW_FRACTION = 4  # slow variants encode one item in four


class Bench:
    """All measurements of one run, with a folder for their files."""

    def __init__(self, items: int, repeats: int, peer: Path | None, folder: Path) -> None:
        self._items, self._repeats, self._peer, self._folder = items, repeats, peer, folder
        self._children: dict[str, Child] = {}
        self.environment: Environment = self._get_child("other").call(describe_environment)

    def measure_model(self, model: Model) -> list[Row]:
        """Measure every variant of one model, interleaved, each repeat starting with another variant."""
        weights = self._get_child("other").call(write_weights, model, self._folder)
        count = self._items * model.share
        work = Work(model, weights, (sample_images if model.images else sample_sentences)(count), max(1, count // SLOW_FRACTION))
        variants: dict[str, Any] = self._load_variants(model, work) | self._load_peers(model, work)
        rows = {name: Row(model.name, name) for name in variants}
        names = list(variants)
        for repeat in range(self._repeats):
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                rows[name].add(variants[name].measure())
        reference = rows[TUTORIAL].vectors
        assert reference is not None
        for row in rows.values():
            row.compare(reference)
        return list(rows.values())

    def close(self) -> None:
        """Stop all processes."""
        for child in self._children.values():
            child.close()

    def _load_variants(self, model: Model, work: Work) -> dict[str, Child]:
        """Load variants in parallel and warm them up one after another."""
        slow_work = Work(model, work.weights, work.items[: work.compared], work.compared)
        variants = self._list_variants(model)
        loading = [self._get_child(name).load(factory, slow_work if slow else work) for name, (factory, slow) in variants.items()]
        for future in loading:
            future.result()
        for name in variants:
            self._get_child(name).warm()
        return {name: self._get_child(name) for name in variants}

    def _list_variants(self, model: Model) -> dict[str, tuple[Factory, bool]]:
        """Map each variant's name to its factory, and whether it is slow."""
        variants: dict[str, tuple[Factory, bool]] = {OURS: (Ours, False)}
        if self.environment.half:
            variants[FORWARD + self.environment.half] = (partial(Forward, precision=self.environment.half), False)
        variants[FORWARD + "float32"] = (partial(Forward, precision="float32"), self.environment.half is not None)
        variants |= {OPENED: (Opened, False)} if model.images else {DEFAULTS: (LibraryDefault, False)}
        return variants | {TUTORIAL: (Tutorial, True)}

    def _load_peers(self, model: Model, work: Work) -> dict[str, ClipRetrieval]:
        if model.kind != "open-clip" or self._peer is None:
            return {}
        peer = ClipRetrieval(self._peer, self._folder / "peer")
        peer.prepare(work)
        return {PEER: peer}

    def _get_child(self, name: str) -> Child:
        if name not in self._children:
            self._children[name] = Child(self._folder / "output.log")
        return self._children[name]


def measure_rates(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure and print; returns the results."""
    peer = ensure_installed(arguments.peers_venv.resolve()) if arguments.peers_venv else None
    if arguments.peers_venv is None:
        print("clip-retrieval is skipped; name a folder for its virtual environment with --peers-venv\n")
    bench, start, rows = Bench(arguments.items, arguments.repeats, peer, folder), time.perf_counter(), []
    try:
        for model in MODELS:
            if model.name in arguments.models:
                rows += bench.measure_model(model)
                print(f"{model.name} done after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    except Exception:
        sys.stderr.write((folder / "output.log").read_text(errors="replace")[-4000:])
        raise
    finally:
        bench.close()
    environment, target_results = bench.environment, compare_targets(rows)
    limit_results = compute_limits(rows, same_cores=environment.device == "CPU")
    print(f"{environment.device}, {environment.threads} threads; medians of {arguments.repeats} repeats\n")
    print(report.format_table(rows), report.format_targets(target_results), report.format_limits(limit_results), sep="\n\n")
    sections: dict[str, list[Any]] = {"rows": rows, "targets": target_results, "limits": limit_results}
    return {"device": asdict(environment)} | {name: [result.as_json() for result in results] for name, results in sections.items()}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw what was measured."""
    plots = {"memory": memory.plot, "costs": costs.plot, "runtimes": runtimes.plot}
    next((draw for name, draw in plots.items() if name in results), report.plot)(results, figure)


def main() -> None:
    """Measure rates, memory, costs or runtimes."""
    names = [model.name for model in MODELS]
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=int, default=256, help="images for ViT-B/32; faster models get a multiple")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: the device torch finds")
    parser.add_argument("--peers-venv", type=Path, help="virtual environment of clip-retrieval, created if missing")
    parser.add_argument("--memory", action="store_true", help="peak memory of the encode stage at N and 4N items, instead of rates")
    parser.add_argument("--memory-items", type=int, default=1500, help="N: images, and four times as many texts")
    parser.add_argument("--costs", action="store_true", help="CPU time of each step of an image, instead of rates")
    parser.add_argument(
        "--runtimes", action="store_true", help="CPU time of float32 and 8-bit models by torch and by ONNX Runtime, instead"
    )
    arguments = parser.parse_args()
    run = Report(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if arguments.device == "cpu" else {})
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            results: Any = memory.measure(arguments.memory_items, Path(folder))
        elif arguments.costs or arguments.runtimes:
            results = (costs if arguments.costs else runtimes).measure(arguments.models, arguments.items)
        else:
            results = measure_rates(arguments, Path(folder))
    run.finish(results, plot)


if __name__ == "__main__":
    main()
