"""The whole build as a process: a first build, and one with nothing changed. Wall seconds, medians of the repeats.

Run: python benchmarks/spine.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time


def run_timed(*arguments: str) -> tuple[float, dict[str, object]]:
    """Run `indexmill` as a process; returns wall seconds and the JSON object it printed."""
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "indexmill", *arguments, "--json"], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, json.loads(run.stdout)


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as root:
        cold, summary = run_timed("build", "demo-text", "--root", root)
        print(f"build demo-text, cold      {cold:6.1f} s   {summary['items']} items")
        cached = [run_timed("build", "demo-text", "--root", root)[0] for _ in range(repeats)]
        print(f"build demo-text, unchanged {statistics.median(cached):6.1f} s   {min(cached):.1f} to {max(cached):.1f}")
        query = ("search", "demo-text", "parse a date out of a string", "--root", root)
        searches = [run_timed(*query) for _ in range(repeats)]
        print(f"search, whole process      {statistics.median(seconds for seconds, _ in searches):6.1f} s")
        print(f"search, FAISS alone        {statistics.median(float(str(result['search_ms'])) for _, result in searches):6.2f} ms")


if __name__ == "__main__":
    main()
