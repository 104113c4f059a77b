"""Ingest, validate and split on a folder of small images: files per second, the cost of an unchanged nightly build, and peak memory.

Every build runs in a process of its own, so that peak memory is its own; it is the sum over the process and those that it starts to open
images, sampled every 20 ms. Run: python benchmarks/ingest.py [--items 100000] [--repeats 3]
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
from resident import get_resident_bytes

LABELS = 100
SIDE = 24
MEBIBYTE = 1 << 20


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
    """Run one nightly build in a process of its own; returns its report and its `peak` memory in bytes."""
    command = [sys.executable, __file__, "--night", str(folder), str(root), *flags]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        peak, watched_process = 0, psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, get_resident_bytes(watched_process))
            time.sleep(0.02)
        assert process.stdout is not None
        report = process.stdout.read()
    if process.returncode:
        sys.exit(f"a nightly build ended with status {process.returncode}")
    return {**json.loads(report), "peak": peak}


def print_line(title: str, value: str, remark: str = "") -> None:
    """Print one measurement."""
    print(f"{title:<42}{value:>16}   {remark}".rstrip(), flush=True)


def run_first_night(folder: Path, items: int) -> dict[str, Any]:
    """Write the images, wait until their modification times can be trusted, and run a first build."""
    write_pictures(folder / "pictures", range(items), seed=0)
    time.sleep(3)
    return measure_night(folder / "pictures", folder / "root")


def show_stages(title: str, report: dict[str, Any], items: int) -> None:
    """Print the whole build, then its stages."""
    stages = {name: seconds for name, seconds in report["seconds"].items() if name != "revision"}
    total = sum(stages.values())
    print_line(title, f"{total:.1f} s", f"{items / total:,.0f} files/s; read {report['read']:,}, opened {report['opened']:,}")
    for name, seconds in stages.items():
        print_line(f"  {name}", f"{seconds:.1f} s", f"{items / seconds:,.0f} files/s")


def compare(items: int, repeats: int) -> None:
    """Run all builds and print one line per measurement."""
    print_line("machine", f"{os.cpu_count()} cores", f"Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as quarter, tempfile.TemporaryDirectory() as whole:
        small, large = run_first_night(Path(quarter), items // 4), run_first_night(Path(whole), items)
        folder, root = Path(whole) / "pictures", Path(whole) / "root"
        show_stages(f"first build, {items:,} images", large, items)
        unchanged = [measure_night(folder, root, "--revision") for _ in range(repeats)]
        revision_seconds = statistics.median(report["seconds"]["revision"] for report in unchanged)
        print_line(
            "unchanged, known by the revision",
            f"{revision_seconds:.2f} s",
            f"median of {repeats}; read {max(report['read'] for report in unchanged)}",
        )
        relisted = [measure_night(folder, root) for _ in range(repeats)]
        relisted.sort(key=lambda report: sum(report["seconds"].values()))
        show_stages(f"unchanged, all stages run (median of {repeats})", relisted[repeats // 2], items)
        changed = change_pictures(folder, 0.01)
        show_stages(f"{changed:,} images changed", measure_night(folder, root), items)
    for count, report in ((items // 4, small), (items, large)):
        print_line(f"peak memory, first build, {count:,}", f"{report['peak'] / MEBIBYTE:,.0f} MiB")
    print_line("peak memory, ratio", f"{large['peak'] / small['peak']:.2f}", "at four times the images")
    peak = statistics.median(report["peak"] for report in relisted)
    print_line("peak memory, unchanged, all stages run", f"{peak / MEBIBYTE:,.0f} MiB", f"median of {repeats}")


def main() -> None:
    """Measure, or run one of the measured builds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--night", nargs=2, metavar=("FOLDER", "ROOT"), help=argparse.SUPPRESS)
    parser.add_argument("--revision", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.night:
        print(json.dumps(run_nightly_stages(*arguments.night, run_stages=not arguments.revision)))
    else:
        compare(arguments.items, arguments.repeats)


if __name__ == "__main__":
    main()
