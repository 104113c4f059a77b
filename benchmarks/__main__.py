"""All benchmarks in a short form: each writes its output, its results as JSON and its plot to a folder, and a page lists them.

Run: python -m benchmarks [--out bench-results] [--only NAME ...]
     python -m benchmarks --out bench-results --redraw          (plots and page, from the JSON files that are there)
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks.encoding.items import DATA_VARIABLE
from benchmarks.report import Heading, draw

# Name of the output: module and options. {out} is the folder of the results.
SHORT_FORMS = {
    "spine": "spine --repeats 1",
    "nightly": "nightly --items 5000 --repeats 1",
    "ingest": "ingest --items 8000 --repeats 1",
    "encode": "encode --items 32 --repeats 1",
    "encode_memory": "encode --memory --memory-items 40",
    "index": "index --data {out}/embeddings --items 20000 --queries 1000 --repeats 1",
    "index_memory": "index_memory --sizes 50000 100000 200000",
    "exact_search": "exact_search --repeats 1",
    "evaluate": "evaluate --queries 2000 --database 20000 --peer-queries 500",
    "runbook": "runbook --items 20000",
    "scale": "scale --items 50000 100000 200000 --dim 96",
    "serve": "serve --items 20000 --seconds 1",
    "serve_swaps": "serve_swaps --items 20000 --swaps 40",
    "runners": "runners --texts 2048 --vectors 100000 --tasks 10",
    "choices": "choices --subquantizers 4 --texts 256 --repeats 1",
    "content_groups": "content_groups",
}
NEEDS_REAL_DATA = {"encode", "encode_memory"}
BY_HAND = {"million": "encodes 120,000 texts first", "serve_peer": "needs txtai"}
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Benchmarks</title>
<style>body {{ font: 15px sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }} img {{ max-width: 100% }}
pre {{ background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 12px }} td, th {{ text-align: left; padding-right: 2rem }}</style>
<h1>Benchmarks in their short form</h1><p>For orientation only: docs/benchmarks.md has the long forms.</p>
<table><tr><th>Benchmark<th>Result</tr>{rows}</table>{sections}</html>
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one benchmark: `drawn` (now or by an earlier run), or why not."""

    name: str
    result: str

    @property
    def is_drawn(self) -> bool:
        """Whether there is a plot."""
        return self.result.startswith("drawn")

    @property
    def is_failure(self) -> bool:
        """Whether it was started and did not end well."""
        return self.result.startswith("failed")


def run_benchmark(name: str, out: Path) -> Outcome:
    """Run one benchmark as a process, and copy its output to a file."""
    if name in NEEDS_REAL_DATA and not os.environ.get(DATA_VARIABLE):
        return Outcome(name, f"skipped: {DATA_VARIABLE} names no folder")
    module, *options = SHORT_FORMS[name].format(out=out).split()
    command = [sys.executable, "-m", f"benchmarks.{module}", *options]
    command += ["--json", str(out / f"{name}.json"), "--plot", str(out / f"{name}.png")]
    print(f"\n== {name}", flush=True)
    with (out / f"{name}.txt").open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
    status = process.wait()
    return Outcome(name, f"failed with status {status}" if status else "drawn")


def redraw(name: str, out: Path) -> Outcome:
    """Draw the plot of one benchmark from its JSON file."""
    source = out / f"{name}.json"
    if not source.exists():
        return Outcome(name, "skipped: no results")
    module = importlib.import_module(f"benchmarks.{SHORT_FORMS[name].split()[0]}")
    content = json.loads(source.read_text(encoding="utf-8"))
    draw(out / f"{name}.png", Heading(**content["heading"]), content["results"], module.plot)
    return Outcome(name, "drawn")


def run_one(name: str, options: argparse.Namespace) -> Outcome:
    """Run or redraw one benchmark, unless `--only` leaves it out."""
    if name not in options.only:
        return Outcome(name, "drawn earlier" if (options.out / f"{name}.png").exists() else "not run")
    return redraw(name, options.out) if options.redraw else run_benchmark(name, options.out)


def write_page(outcomes: list[Outcome], out: Path) -> None:
    """Write index.html, with the plot and the output of every benchmark that was drawn."""
    rows, sections = [], []
    for outcome in outcomes:
        title = f'<a href="#{outcome.name}">{outcome.name}</a>' if outcome.is_drawn else outcome.name
        rows.append(f"<tr><td>{title}<td>{escape(outcome.result)}</tr>")
        if outcome.is_drawn:
            text_file = out / f"{outcome.name}.txt"
            text = escape(text_file.read_text(encoding="utf-8")) if text_file.exists() else ""
            image = f'<img src="{outcome.name}.png" alt="Plot of {outcome.name}">'
            sections.append(f'<h2 id="{outcome.name}">{outcome.name}</h2>{image}<pre>{text}</pre>')
    (out / "index.html").write_text(PAGE.format(rows="".join(rows), sections="".join(sections)), encoding="utf-8")


def main() -> None:
    """Run or redraw, and print a table of what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder for all results")
    parser.add_argument("--only", nargs="+", choices=SHORT_FORMS, default=list(SHORT_FORMS), metavar="NAME")
    parser.add_argument("--redraw", action="store_true", help="draw again what the folder has results of; nothing is measured")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    outcomes = [run_one(name, options) for name in SHORT_FORMS]
    write_page(outcomes, out)
    width = max(map(len, SHORT_FORMS)) + 2
    print(f"\n{'benchmark':<{width}}result")
    for outcome in outcomes:
        files = f" {out / outcome.name}.png" if outcome.is_drawn else ""
        print(f"{outcome.name:<{width}}{outcome.result}{files}")
    print(f"page: {out / 'index.html'}; not part of this: " + ", ".join(f"{name} ({reason})" for name, reason in BY_HAND.items()))
    raise SystemExit(any(outcome.is_failure for outcome in outcomes))


if __name__ == "__main__":
    main()
