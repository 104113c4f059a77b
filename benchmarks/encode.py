"""Encoding: Indexmill against the bare model, the tutorial loop and its peers, on the same items and weights, interleaved.

Images are Caltech-101's and sentences SICK's, from the folder that INDEXMILL_REAL_DATA names; weights are genuine for MiniLM and random for
the image models, which changes no rate. Every variant has a process of its own, is warmed up, and takes its turn in every repeat, each
time in another place. Slow variants take a quarter of the items. `--memory` measures peak memory instead.

Run: INDEXMILL_REAL_DATA=DIR python benchmarks/encode.py [--peers-venv DIR] [--plot FILE.png] [--json FILE]
     INDEXMILL_REAL_DATA=DIR python benchmarks/encode.py --memory
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from encoding import memory, report
from encoding.children import Child
from encoding.clip_retrieval import ClipRetrieval, installed
from encoding.items import pictures, sentences
from encoding.models import MODELS, Model, Surroundings, surroundings, write_weights
from encoding.results import DEFAULTS, FORWARD, OPENED, OURS, PEER, TUTORIAL, Row, limits, verdicts
from encoding.variants import Factory, Forward, LibraryDefault, Opened, Ours, Tutorial, Work

SLOW = 4  # slow variants take one item in so many


class Bench:
    """All measurements of one run. `place` is a folder for what they leave."""

    def __init__(self, items: int, repeats: int, peer: Path | None, place: Path) -> None:
        self._items, self._repeats, self._peer, self._place = items, repeats, peer, place
        self._children: dict[str, Child] = {}
        self.here: Surroundings = self._child("other").call(surroundings)

    def rows(self, model: Model) -> list[Row]:
        """Every variant of one model: repeats outside, variants inside, each repeat beginning with another."""
        weights = self._child("other").call(write_weights, model, self._place)
        count = self._items * model.share
        work = Work(model, weights, (pictures if model.images else sentences)(count), max(1, count // SLOW))
        ways: dict[str, Any] = self._loaded(model, work) | self._peers(model, work)
        rows = {name: Row(model.name, name) for name in ways}
        names = list(ways)
        for repeat in range(self._repeats):
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                rows[name].add(ways[name].measure())
        reference = rows[TUTORIAL].vectors
        assert reference is not None
        for row in rows.values():
            row.compare(reference)
        return list(rows.values())

    def close(self) -> None:
        """End all processes."""
        for child in self._children.values():
            child.close()

    def _loaded(self, model: Model, work: Work) -> dict[str, Child]:
        """Loaded side by side, warmed up one after the other."""
        few = Work(model, work.weights, work.items[: work.compared], work.compared)
        ways = self._ways(model)
        loading = [self._child(name).load(factory, few if slow else work) for name, (factory, slow) in ways.items()]
        for future in loading:
            future.result()
        for name in ways:
            self._child(name).warm()
        return {name: self._child(name) for name in ways}

    def _ways(self, model: Model) -> dict[str, tuple[Factory, bool]]:
        """A variant's name -> how it is made, and whether it is slow."""
        ways: dict[str, tuple[Factory, bool]] = {OURS: (Ours, False)}
        if self.here.half:
            ways[FORWARD + self.here.half] = (partial(Forward, precision=self.here.half), False)
        ways[FORWARD + "float32"] = (partial(Forward, precision="float32"), self.here.half is not None)
        ways |= {OPENED: (Opened, False)} if model.images else {DEFAULTS: (LibraryDefault, False)}
        return ways | {TUTORIAL: (Tutorial, True)}

    def _peers(self, model: Model, work: Work) -> dict[str, ClipRetrieval]:
        if model.kind != "open-clip" or self._peer is None:
            return {}
        peer = ClipRetrieval(self._peer, self._place / "peer")
        peer.take(work)
        return {PEER: peer}

    def _child(self, name: str) -> Child:
        if name not in self._children:
            self._children[name] = Child(self._place / "output.log")
        return self._children[name]


def rates(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Measure and print; what `--json` holds."""
    peer = installed(arguments.peers_venv.resolve()) if arguments.peers_venv else None
    if arguments.peers_venv is None:
        print("clip-retrieval is left out: name a folder for its virtual environment with --peers-venv\n")
    bench, start, rows = Bench(arguments.items, arguments.repeats, peer, place), time.perf_counter(), []
    try:
        for model in MODELS:
            if model.name in arguments.models:
                rows += bench.rows(model)
                print(f"{model.name} done after {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    except Exception:
        sys.stderr.write((place / "output.log").read_text(errors="replace")[-4000:])
        raise
    finally:
        bench.close()
    here, found, limited = bench.here, verdicts(rows), limits(rows, same_cores=bench.here.device == "CPU")
    print(f"{here.device}, {here.threads} threads, {os.cpu_count()} cores; {here.versions}; medians of {arguments.repeats} repeats\n")
    print(report.table(rows), report.targets(found), report.limits(limited), sep="\n\n")
    if arguments.plot:
        report.plot(rows, arguments.plot)
    told: dict[str, list[Any]] = {"rows": rows, "targets": found, "limits": limited}
    return {"machine": asdict(here)} | {name: [one.as_json() for one in several] for name, several in told.items()}


def main() -> None:
    """Measure rates, or memory."""
    names = [model.name for model in MODELS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=256, help="images for ViT-B/32; faster models take a multiple")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: what torch finds")
    parser.add_argument("--peers-venv", type=Path, help="virtual environment of clip-retrieval, made when missing")
    parser.add_argument("--plot", type=Path, help="write a plot into this PNG file")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.add_argument("--memory", action="store_true", help="peak memory of the encode stage at N and 4N items, instead of rates")
    parser.add_argument("--memory-items", type=int, default=1500, help="N: images, and four times as many texts")
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))  # what the processes import of the project is what lies beside this file
    os.environ |= {"HF_HUB_OFFLINE": "1"} | ({"CUDA_VISIBLE_DEVICES": ""} if arguments.device == "cpu" else {})
    with tempfile.TemporaryDirectory() as place:
        found = memory.measure(arguments.memory_items, Path(place)) if arguments.memory else rates(arguments, Path(place))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
