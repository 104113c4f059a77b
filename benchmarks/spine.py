"""The whole build as a process: from nothing, and again with nothing changed. Wall seconds, medians of the repeats.

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


def timed(*arguments: str) -> tuple[float, dict[str, object]]:
    """Wall seconds of one `indexmill` process, and the JSON object that it printed."""
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "indexmill", *arguments, "--json"], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, json.loads(run.stdout)


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as root:
        cold, summary = timed("build", "demo-text", "--root", root)
        print(f"build demo-text, cold      {cold:6.1f} s   {summary['items']} items")
        cached = [timed("build", "demo-text", "--root", root)[0] for _ in range(repeats)]
        print(f"build demo-text, unchanged {statistics.median(cached):6.1f} s   {min(cached):.1f} to {max(cached):.1f}")
        query = ("search", "demo-text", "parse a date out of a string", "--root", root)
        asked = [timed(*query) for _ in range(repeats)]
        print(f"search, whole process      {statistics.median(seconds for seconds, _ in asked):6.1f} s")
        print(f"search, FAISS alone        {statistics.median(float(str(answer['search_ms'])) for _, answer in asked):6.2f} ms")


if __name__ == "__main__":
    main()
