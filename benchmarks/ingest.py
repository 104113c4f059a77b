"""Ingest, validate and split on a folder of small pictures: files a second, what an unchanged night costs, and peak memory.

Every night runs in a process of its own, so that its peak memory is its own; peak memory is that of the process and of those that it
starts to open images, added up every 20 ms. Run: python benchmarks/ingest.py [--items 100000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from resident import resident

LABELS = 100
SIDE = 24
MEBIBYTE = 1 << 20


def write_pictures(folder: Path, numbers: range, seed: int) -> None:
    """Distinct JPEGs of seeded noise, number by number into LABELS class folders."""
    draw = np.random.default_rng(seed)
    for label in range(LABELS):
        (folder / f"class-{label:03d}").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"class-{number % LABELS:03d}" / f"{number:08d}.jpg")


def change_pictures(folder: Path, share: float) -> int:
    """Write other pictures into a seeded choice of the files; how many."""
    paths = sorted(folder.rglob("*.jpg"))
    chosen = random.Random(1).sample(paths, int(len(paths) * share))
    draw = np.random.default_rng(2)
    for path in chosen:
        Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return len(chosen)


def night(folder: str, place: str, *, listed_anew: bool) -> dict[str, Any]:
    """One night's work in this process: seconds a stage, and how many image files were read for it.

    listed_anew: go through the stages, whatever Prefect would remember of them; else only find out that nothing has changed.
    """
    from indexmill.configs.datasets import FolderDatasetConfig
    from indexmill.configs.models import SplitConfig, ValidateConfig
    from indexmill.storage.root import Root
    from indexmill.tasks.ingest import ingest, read_source_revision
    from indexmill.tasks.split import split
    from indexmill.tasks.validate import validate

    read = _counted_reads()
    root, config, seconds = Root(place), FolderDatasetConfig(source="folder", path=folder), {}

    def timed(stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        done = work(*arguments)
        seconds[stage] = time.perf_counter() - start
        return done

    now = timed("revision", read_source_revision, config, root)
    if listed_anew:
        opened = _opened(root)
        dataset = timed("ingest", ingest.fn, root, "pictures", config, now)
        validated = timed("validate", validate.fn, root, dataset, ValidateConfig())
        timed("split", split.fn, root, validated, SplitConfig())
        read["opened"] = _opened(root) - opened
    root.close()
    return {"seconds": seconds, **read}


def _counted_reads() -> dict[str, int]:
    """Count the whole files that this process reads from here on, under `read`."""
    counts, original = {"read": 0, "opened": 0}, Path.read_bytes

    def counting(path: Path) -> bytes:
        counts["read"] += path.suffix == ".jpg"
        return original(path)

    Path.read_bytes = counting  # type: ignore[method-assign]
    return counts


def _opened(root: Any) -> int:
    """How many contents were ever opened as images: rows of the openings."""
    from indexmill.storage import parquet

    parts = sorted(root.path.glob("image_checks/*/part-*.parquet"))
    return int(parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(*parts)}", temp_dir=root.tmp)[0][0]) if parts else 0


def measured(folder: Path, root: Path, *flags: str) -> dict[str, Any]:
    """What one night in a process of its own reports, with its `peak` memory in bytes."""
    command = [sys.executable, __file__, "--night", str(folder), str(root), *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        peak, watched = 0, psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, resident(watched))
            time.sleep(0.02)
        assert process.stdout is not None
        report = process.stdout.read()
    if process.returncode:
        sys.exit(f"a night ended with status {process.returncode}")
    return {**json.loads(report), "peak": peak}


def line(what: str, figure: str, remark: str = "") -> None:
    """Print one figure."""
    print(f"{what:<42}{figure:>16}   {remark}".rstrip(), flush=True)


def cold(place: Path, items: int) -> dict[str, Any]:
    """Write the pictures, wait until their modification times can be believed, and run a first night."""
    write_pictures(place / "pictures", range(items), seed=0)
    time.sleep(3)
    return measured(place / "pictures", place / "root")


def show_stages(what: str, report: dict[str, Any], items: int) -> None:
    """The whole night, then its stages."""
    stages = {name: seconds for name, seconds in report["seconds"].items() if name != "revision"}
    total = sum(stages.values())
    line(what, f"{total:.1f} s", f"{items / total:,.0f} files/s; read {report['read']:,}, opened {report['opened']:,}")
    for name, seconds in stages.items():
        line(f"  {name}", f"{seconds:.1f} s", f"{items / seconds:,.0f} files/s")


def compare(items: int, repeats: int) -> None:
    """All nights, one line a figure."""
    line("machine", f"{os.cpu_count()} cores", f"Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as quarter, tempfile.TemporaryDirectory() as whole:
        small, large = cold(Path(quarter), items // 4), cold(Path(whole), items)
        folder, root = Path(whole) / "pictures", Path(whole) / "root"
        show_stages(f"first night, {items:,} pictures", large, items)
        unchanged = [measured(folder, root, "--revision") for _ in range(repeats)]
        looked = statistics.median(report["seconds"]["revision"] for report in unchanged)
        line("unchanged, found by the revision", f"{looked:.2f} s", f"median of {repeats}; read {max(one['read'] for one in unchanged)}")
        again = [measured(folder, root) for _ in range(repeats)]
        again.sort(key=lambda report: sum(report["seconds"].values()))
        show_stages(f"unchanged, listed anew (median of {repeats})", again[repeats // 2], items)
        changed = change_pictures(folder, 0.01)
        show_stages(f"{changed:,} pictures changed", measured(folder, root), items)
    for count, report in ((items // 4, small), (items, large)):
        line(f"peak memory, first night, {count:,}", f"{report['peak'] / MEBIBYTE:,.0f} MiB")
    line("peak memory, ratio", f"{large['peak'] / small['peak']:.2f}", "at four times the pictures")
    peak = statistics.median(report["peak"] for report in again)
    line("peak memory, unchanged, listed anew", f"{peak / MEBIBYTE:,.0f} MiB", f"median of {repeats}")


def main() -> None:
    """Measure, or be one of the nights that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--night", nargs=2, metavar=("FOLDER", "ROOT"), help=argparse.SUPPRESS)
    parser.add_argument("--revision", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.night:
        print(json.dumps(night(*arguments.night, listed_anew=not arguments.revision)))
    else:
        compare(arguments.items, arguments.repeats)


if __name__ == "__main__":
    main()
