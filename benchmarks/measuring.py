"""Time and memory of this process and of child processes, shared by all benchmarks."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ChildRun:
    """What a child process wrote to its standard output, and what it took. CPU seconds and peak resident bytes include its children."""

    output: str
    wall: float
    cpu: float
    peak: int

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object in the last line of the output."""
        return json.loads(self.output.splitlines()[-1])


def run_child(*arguments: str) -> ChildRun:
    """Run Python with these arguments until it ends; memory is sampled every 20 ms. Exit with its last words if it fails."""
    before, start, peak = os.times(), time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=errors)
        watched_process = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, get_resident_bytes(watched_process))
            time.sleep(0.02)
        wall, after = time.perf_counter() - start, os.times()
        output.seek(0), errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)} ended with status {process.returncode}: {errors.read()[-2000:]}")
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return ChildRun(output.read(), wall, cpu, peak)


def time_in_turn(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each step in each round. Steps take turns, so that other work on the machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    return seconds


class Stopwatch:
    """Wall-clock and CPU seconds since it was made, those of all child processes included, ended or not."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), _read_cpu_seconds()

    def read(self) -> dict[str, float]:
        """Return the seconds as `wall` and `cpu`."""
        return {"wall": time.perf_counter() - self._wall, "cpu": _read_cpu_seconds() - self._cpu}


def get_resident_bytes(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its children now; a process that has just ended counts as 0."""
    total = 0
    with suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += member.memory_info().rss
    return total


def get_peak_bytes() -> int:
    """Return the peak resident bytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _read_cpu_seconds() -> float:
    own, seconds = psutil.Process(), 0.0
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
