"""Ingest, validate and split on a folder of small images: files per second, the cost of an unchanged nightly build, and peak memory.

Every build runs in a process of its own, so that peak memory is its own; it is the sum over the process and those that it starts to open
images, sampled every 20 ms.

Run: python -m benchmarks.ingest [--items 100000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.measuring import MEBIBYTE, run_child
from benchmarks.report import Report, make_parser

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = 100
SIDE = 24
STAGES = ("ingest", "validate", "split")
FIRST, KNOWN, LISTED, CHANGED = "first", "unchanged, revision", "unchanged, listed", "1 % changed"


def write_pictures(folder: Path, numbers: range, seed: int) -> None:
    """Write distinct JPEGs of seeded noise into LABELS class folders."""
    generator = np.random.default_rng(seed)
    for label in range(LABELS):
        (folder / f"class-{label:03d}").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"class-{number % LABELS:03d}" / f"{number:08d}.jpg")


def change_pictures(folder: Path, share: float) -> int:
    """Overwrite a seeded choice of the files with other images; returns how many."""
    paths = sorted(folder.rglob("*.jpg"))
    chosen = random.Random(1).sample(paths, int(len(paths) * share))
    generator = np.random.default_rng(2)
    for path in chosen:
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return len(chosen)


def run_nightly_stages(folder: str, root_path: str, *, run_stages: bool) -> dict[str, Any]:
    """Do one nightly build's work in this process: seconds per stage, and how many image files were read.

    run_stages: run the stages even if Prefect has cached them; otherwise only check that nothing has changed.
    """
    from indexmill.configs.datasets import FolderDatasetConfig
    from indexmill.configs.models import SplitConfig, ValidateConfig
    from indexmill.storage.root import Root
    from indexmill.tasks.ingest import ingest
    from indexmill.tasks.sources.revisions import read_source_revision
    from indexmill.tasks.split import split
    from indexmill.tasks.validate import validate

    read = _count_reads()
    root, config, seconds = Root(root_path), FolderDatasetConfig(source="folder", path=folder), {}

    def time_call(stage: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = call(*arguments)
        seconds[stage] = time.perf_counter() - start
        return result

    source_revision = time_call("revision", read_source_revision, config, root)
    if run_stages:
        opened_before = _count_opened_images(root)
        dataset = time_call("ingest", ingest.fn, root, "pictures", config, source_revision)
        validated = time_call("validate", validate.fn, root, dataset, ValidateConfig())
        time_call("split", split.fn, root, validated, SplitConfig())
        read["opened"] = _count_opened_images(root) - opened_before
    root.close()
    return {"seconds": seconds, **read}


def _count_reads() -> dict[str, int]:
    """Count the image files that this process reads from now on, under `read`."""
    counts, read_bytes = {"read": 0, "opened": 0}, Path.read_bytes

    def count_and_read(path: Path) -> bytes:
        counts["read"] += path.suffix == ".jpg"
        return read_bytes(path)

    Path.read_bytes = count_and_read  # type: ignore[method-assign]
    return counts


def _count_opened_images(root: Any) -> int:
    """Count the contents that were ever opened as images: rows of the image-check cache."""
    from indexmill.storage import parquet

    parts = sorted(root.path.glob("image_checks/*/part-*.parquet"))
    return int(parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(*parts)}", temp_dir=root.tmp)[0][0]) if parts else 0


def measure_night(folder: Path, root: Path, *flags: str) -> dict[str, Any]:
    """Run one nightly build in a process of its own; returns its report, with CPU seconds and peak memory."""
    run = run_child("-m", "benchmarks.ingest", "--night", str(folder), str(root), *flags)
    return {**run.result, "cpu": run.cpu, "peak_mib": run.peak / MEBIBYTE}


def run_first_night(folder: Path, items: int) -> dict[str, Any]:
    """Write the images, wait until their modification times can be trusted, and run a first build."""
    write_pictures(folder / "pictures", range(items), seed=0)
    time.sleep(3)
    return measure_night(folder / "pictures", folder / "root")


def sum_stages(report: dict[str, Any]) -> float:
    """Sum the seconds of the stages, or return those of reading the revision if no stage was run."""
    seconds = report["seconds"]
    return sum(seconds[stage] for stage in STAGES) if "ingest" in seconds else seconds["revision"]


def take_median(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the report with the median of the seconds."""
    return sorted(reports, key=sum_stages)[len(reports) // 2]


def measure(items: int, repeats: int) -> dict[str, Any]:
    """Run all builds."""
    with tempfile.TemporaryDirectory() as quarter, tempfile.TemporaryDirectory() as whole:
        small, large = run_first_night(Path(quarter), items // 4), run_first_night(Path(whole), items)
        folder, root = Path(whole) / "pictures", Path(whole) / "root"
        known = [measure_night(folder, root, "--revision") for _ in range(repeats)]
        listed = [measure_night(folder, root) for _ in range(repeats)]
        changed_count = change_pictures(folder, 0.01)
        changed = measure_night(folder, root)
    nights = {FIRST: large, KNOWN: take_median(known), LISTED: take_median(listed), CHANGED: changed}
    return {"items": items, "repeats": repeats, "changed": changed_count, "quarter": small, "nights": nights}


def print_results(results: dict[str, Any]) -> None:
    """Print one line per build, one per stage of the first, and the ratio of the peaks."""
    items = results["items"]
    print(f"{items:,} images, {results['changed']:,} changed; unchanged builds are medians of {results['repeats']}")
    print(f"{'':<22}{'seconds':>8}{'files/s':>10}{'CPU s':>8}{'peak MiB':>10}{'read':>9}{'opened':>9}")
    for name, night in results["nights"].items():
        seconds = sum_stages(night)
        costs = f"{seconds:8.2f}{items / seconds:10,.0f}{night['cpu']:8.1f}{night['peak_mib']:10,.0f}"
        print(f"{name:<22}{costs}{night['read']:9,}{night['opened']:9,}")
        for stage in STAGES if name == FIRST else ():
            print(f"  {stage:<20}{night['seconds'][stage]:8.2f}{items / night['seconds'][stage]:10,.0f}")
    small, large = results["quarter"]["peak_mib"], results["nights"][FIRST]["peak_mib"]
    ratio = f"{large / small:.2f} times that for four times as many"
    print(f"peak memory of a first build: {small:,.0f} MiB for {items // 4:,} images, {ratio}")


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the seconds of each build, and those of the stages of the first."""
    from benchmarks.plotting import draw_bars, get_bars_height, split_panels

    nights, first = results["nights"], results["nights"][FIRST]["seconds"]
    builds, stages = split_panels(figure, 2, height=get_bars_height(len(nights)))
    draw_bars(builds, {name: sum_stages(night) for name, night in nights.items()}, unit="seconds", text="{:,.2f}")
    builds.set_title(f"Nights of {results['items']:,} images")
    rates = {stage: results["items"] / first[stage] for stage in STAGES}
    draw_bars(stages, rates, unit="files per second", text="{:,.0f}")
    stages.set_title("Stages of the first night")


def main() -> None:
    """Measure, or run one of the measured builds."""
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--night", nargs=2, metavar=("FOLDER", "ROOT"), help=argparse.SUPPRESS)
    parser.add_argument("--revision", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.night:
        print(json.dumps(run_nightly_stages(*options.night, run_stages=not options.revision)))
        return
    report = Report(options)
    results = measure(options.items, options.repeats)
    print_results(results)
    report.finish(results, plot)


if __name__ == "__main__":
    main()
