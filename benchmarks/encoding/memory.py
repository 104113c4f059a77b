"""Peak resident memory of the encode stage, all its processes added up, at N and at 4N items."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from resident import resident

from encoding.children import Child
from encoding.items import pictures, sentences
from encoding.models import MODELS, Model, write_weights
from encoding.ours import encode_stage, split_stage

MEBIBYTE = 1 << 20
TARGET = 1.05
TEXTS = 4  # texts for every image: they are so much faster


@dataclass(frozen=True)
class Peak:
    """What one stage in a process of its own took, in bytes and seconds."""

    model: str
    items: int
    peak: int
    seconds: float


def measure(items: int, place: Path) -> dict[str, Any]:
    """Print the peaks and their ratios; what `--json` holds."""
    print("| model | items | peak MiB | items/s, loading included | ratio | target | |\n|---|---|---|---|---|---|---|")
    told = []
    for model, count in ((MODELS[2], items), (MODELS[3], items * TEXTS)):
        small, large = (_peak(model, size, place / f"{model.name}-{size}") for size in (count, 4 * count))
        ratio = large.peak / small.peak
        word = "met" if ratio <= TARGET else "missed"
        _print(small, "| | | |")
        _print(large, f"| {ratio:.3f} | {TARGET} | {word} |")
        told.append({"small": vars(small), "large": vars(large), "ratio": ratio, "target": TARGET, "verdict": word})
    return {"memory": told}


def write_pictures(folder: Path, count: int) -> dict[str, Any]:
    """Real pictures, no two with the same bytes: each carries its number as a JPEG comment. The section `dataset` that names them."""
    for number, path in enumerate(pictures(count)):
        content, comment = Path(path).read_bytes(), f"{number:08d}".encode()
        target = folder / f"class-{number % 100:03d}" / f"{number:08d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:])
    return {"source": "folder", "path": str(folder)}


def write_texts(folder: Path, count: int) -> dict[str, Any]:
    """Sentences, no two alike. The section `dataset` that names them."""
    folder.mkdir(parents=True)
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        for number, sentence in enumerate(sentences(count)):
            file.write(json.dumps({"text": f"{number}: {sentence}"}) + "\n")
    return {"source": "jsonl", "path": str(folder / "texts.jsonl"), "text_column": "text"}


def watched(function: Callable[..., Any], *arguments: Any, log: Path) -> tuple[int, float]:
    """Call it in a process of its own: the most resident bytes of that process and its children, looked at every 20 ms, and seconds."""
    process = multiprocessing.get_context("spawn").Process(target=_hushed, args=(str(log), function, *arguments))
    start, peak = time.perf_counter(), 0
    process.start()
    watching = psutil.Process(process.pid)
    while process.is_alive():
        peak = max(peak, resident(watching))
        time.sleep(0.02)
    if process.exitcode:
        sys.exit(f"the encode stage ended with status {process.exitcode}: {log.read_text(errors='replace')[-4000:]}")
    return peak, time.perf_counter() - start


def _peak(model: Model, count: int, place: Path) -> Peak:
    place.mkdir()
    child = Child(place / "output.log")
    try:
        settings = model.settings(child.call(write_weights, model, place))
        dataset = (write_pictures if model.images else write_texts)(place / "source", count)
        split = child.call(split_stage, str(place / "root"), dataset)
    finally:
        child.close()
    peak, seconds = watched(encode_stage, str(place / "root"), split, settings, log=place / "output.log")
    return Peak(model.name, count, peak, seconds)


def _hushed(log: str, function: Callable[..., Any], *arguments: Any) -> None:
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*arguments)


def _print(peak: Peak, rest: str) -> None:
    print(f"| {peak.model} | {peak.items:,} | {peak.peak / MEBIBYTE:,.0f} | {peak.items / peak.seconds:,.1f} {rest}", flush=True)
