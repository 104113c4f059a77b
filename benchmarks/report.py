"""What every benchmark prints and writes: the heading of a run, its results as JSON, and its plot.

A script makes its parser with `make_parser`, prints the heading by making a `Report` before it measures, and ends with
`Report.finish`. Its function `plot(results, figure)` draws the results as they are in the JSON file, so that a plot can
be drawn again from the file alone (`python -m benchmarks --redraw`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PACKAGES = {"torch": "torch", "faiss-cpu": "faiss", "prefect": "Prefect", "onnxruntime": "ONNX Runtime"}
THREADS = "OMP_NUM_THREADS"
# Flags of /proc/cpuinfo, the widest first. `asimd` and `sve` are Arm's.
INSTRUCTION_SETS = {
    "amx_tile": "AMX",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "sve": "SVE",
    "asimd": "NEON",
}


@dataclass
class Heading:
    """The conditions of a run. load: the average of the last minute at the start and, once it has ended, at the end."""

    command: str
    date: str
    processor: str
    cores: str
    load: list[float]
    versions: dict[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = {"command": self.command, "date": self.date, "processor": f"{self.processor}; {self.cores}", "versions": versions}
        return "\n".join(f"{name:<10} {value}" for name, value in lines.items()) + f"\nload       {self.load[0]:.1f} at the start"

    @property
    def caption(self) -> str:
        """One line for a plot."""
        load = " to ".join(f"{value:.1f}" for value in self.load)
        return f"{self.processor}; {self.cores}. {self.date}, load {load}"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the heading and all results to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the results into this file (.png or .svg)")
    return parser


class Report:
    """One run of a benchmark. Making it prints the heading."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._json, self._plot = options.json, options.plot
        self.heading = describe_run()
        print(f"{self.heading}\n", flush=True)

    def finish(self, results: dict[str, Any], plot: Callable[[dict[str, Any], Figure], None]) -> None:
        """Print the load at the end, and write what the options name. `results` holds what JSON can hold."""
        self.heading.load.append(_read_load())
        print(f"\nload       {self.heading.load[0]:.1f} at the start, {self.heading.load[1]:.1f} at the end", flush=True)
        if self._json:
            self._json.write_text(json.dumps({"heading": asdict(self.heading), "results": results}, indent=1) + "\n", encoding="utf-8")
        if self._plot:
            draw(self._plot, self.heading, results, plot)


def draw(path: Path, heading: Heading, results: dict[str, Any], plot: Callable[[dict[str, Any], Figure], None]) -> None:
    """Draw results into a file, with the conditions of the run below."""
    from benchmarks.plotting import open_figure

    with open_figure(path, heading.caption) as figure:
        # Through JSON, so that a plot from a file and one from a run cannot differ.
        plot(json.loads(json.dumps(results)), figure)


def describe_run() -> Heading:
    """Describe this process, its machine and the present load."""
    words = ["python", *sys.orig_argv[1:]]
    return Heading(
        command=shlex.join(words),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        processor=describe_processor(_read_cpuinfo()),
        cores=describe_cores(),
        load=[_read_load()],
        versions={"Python": platform.python_version()} | _read_versions(),
    )


def describe_processor(cpuinfo: str) -> str:
    """Name model and widest instruction set from the text of /proc/cpuinfo."""
    fields = dict(re.findall(r"^(model name|model|flags|Features)\s*: (.*)$", cpuinfo, re.M))
    name = re.sub(r"\((R|TM)\)|\s+Processor$", "", fields.get("model name", platform.machine())).strip()
    model = f" (model {fields['model']})" if "model" in fields else ""
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    widest = next((title for flag, title in INSTRUCTION_SETS.items() if flag in flags), None)
    return f"{name}{model}, {widest or 'instruction sets unknown'}"


def describe_cores() -> str:
    """Say how many cores this process may use, and how many threads OpenMP may."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = f"{usable} of {os.cpu_count()} cores"
    return f"{cores}, {THREADS}={os.environ[THREADS]}" if THREADS in os.environ else cores


def _read_versions() -> dict[str, str]:
    """Read versions without importing the packages."""
    versions = {}
    for package, title in PACKAGES.items():
        try:
            versions[title] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _read_cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").split("\n\n")[0] if path.exists() else ""


def _read_load() -> float:
    return round(os.getloadavg()[0], 2)
