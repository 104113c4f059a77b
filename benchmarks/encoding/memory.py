"""Peak resident memory of the encode stage, summed over its processes, at N and 4N items."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.encoding.children import Child
from benchmarks.encoding.items import sample_images, sample_sentences
from benchmarks.encoding.models import MODELS, Model, write_weights
from benchmarks.encoding.ours import encode_stage, split_stage
from benchmarks.measuring import MEBIBYTE, get_resident_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_RATIO = 1.05
TEXTS_PER_IMAGE = 4  # since texts are much faster


@dataclass(frozen=True)
class Peak:
    """What one stage took in a process of its own, in bytes and seconds."""

    model: str
    items: int
    peak: int
    seconds: float


def measure(items: int, folder: Path) -> dict[str, Any]:
    """Print the peaks and their ratios; returns the results."""
    print("| model | items | peak MiB | items/s with loading | ratio | target | |\n|---|---|---|---|---|---|---|")
    results = []
    for model, count in ((MODELS[2], items), (MODELS[3], items * TEXTS_PER_IMAGE)):
        small, large = (_peak(model, size, folder / f"{model.name}-{size}") for size in (count, 4 * count))
        ratio = large.peak / small.peak
        verdict = "met" if ratio <= MAX_RATIO else "missed"
        _print(small, "| | | |")
        _print(large, f"| {ratio:.3f} | {MAX_RATIO} | {verdict} |")
        results.append({"small": vars(small), "large": vars(large), "ratio": ratio, "target": MAX_RATIO, "verdict": verdict})
    return {"memory": results}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the peaks at N and 4N items."""
    from benchmarks.plotting import draw_bars, get_bars_height, split_panels

    sizes = [size for result in results["memory"] for size in (result["small"], result["large"])]
    peaks = {f"{size['model']}, {size['items']:,} items": size["peak"] / MEBIBYTE for size in sizes}
    (axes,) = split_panels(figure, 1, height=get_bars_height(len(peaks)))
    draw_bars(axes, peaks, unit="peak memory of the encode stage, MiB", text="{:,.0f}")


def write_images(folder: Path, count: int) -> dict[str, Any]:
    """Write distinct real images, each with its number as a JPEG comment; returns the config section `dataset`."""
    for number, path in enumerate(sample_images(count)):
        content, comment = Path(path).read_bytes(), f"{number:08d}".encode()
        target = folder / f"class-{number % 100:03d}" / f"{number:08d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:])
    return {"source": "folder", "path": str(folder)}


def write_texts(folder: Path, count: int) -> dict[str, Any]:
    """Write distinct sentences; returns the config section `dataset`."""
    folder.mkdir(parents=True)
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        for number, sentence in enumerate(sample_sentences(count)):
            file.write(json.dumps({"text": f"{number}: {sentence}"}) + "\n")
    return {"source": "jsonl", "path": str(folder / "texts.jsonl"), "text_column": "text"}


def measure_peak(function: Callable[..., Any], *arguments: Any, log: Path) -> tuple[int, float]:
    """Call a function in a process of its own; returns peak resident bytes of it and its children, sampled every 20 ms, and seconds."""
    process = multiprocessing.get_context("spawn").Process(target=_run_with_log, args=(str(log), function, *arguments))
    start, peak = time.perf_counter(), 0
    process.start()
    process_info = psutil.Process(process.pid)
    while process.is_alive():
        peak = max(peak, get_resident_bytes(process_info))
        time.sleep(0.02)
    if process.exitcode:
        sys.exit(f"the encode stage ended with status {process.exitcode}: {log.read_text(errors='replace')[-4000:]}")
    return peak, time.perf_counter() - start


def _peak(model: Model, count: int, folder: Path) -> Peak:
    folder.mkdir()
    child = Child(folder / "output.log")
    try:
        settings = model.settings(child.call(write_weights, model, folder))
        dataset = (write_images if model.images else write_texts)(folder / "source", count)
        split = child.call(split_stage, str(folder / "root"), dataset)
    finally:
        child.close()
    peak, seconds = measure_peak(encode_stage, str(folder / "root"), split, settings, log=folder / "output.log")
    return Peak(model.name, count, peak, seconds)


def _run_with_log(log: str, function: Callable[..., Any], *arguments: Any) -> None:
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)


def _print(peak: Peak, columns: str) -> None:
    print(f"| {peak.model} | {peak.items:,} | {peak.peak / MEBIBYTE:,.0f} | {peak.items / peak.seconds:,.1f} {columns}", flush=True)
