"""The peer clip-retrieval, run as a process in a virtual environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.encoding.variants import Measured, Work

PINS = ("clip-retrieval==2.45.0", "torchvision==0.29.1", "pyarrow<16", "setuptools<81")
INSIDE = Path(__file__).with_name("clip_retrieval_inside.py")
BATCH = 64


def ensure_installed(folder: Path) -> Path | None:
    """Return the Python of the peer's environment, creating it if missing. Prints why and returns None if it cannot be created."""
    python = folder / "bin" / "python"
    if (folder / "installed").exists():
        return python
    print(f"installing {PINS[0]} under {folder}; this takes a few minutes, once", file=sys.stderr, flush=True)
    for command in ([sys.executable, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "--quiet", *PINS]):
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            print(f"clip-retrieval is skipped, since it cannot be installed: {_last_line(run.stderr)}", flush=True)
            return None
    (folder / "installed").touch()
    return python


class ClipRetrieval:
    """Its own command over a folder of links to the images, with the same checkpoint."""

    def __init__(self, python: Path, folder: Path) -> None:
        self._python, self._folder = python, folder

    def prepare(self, work: Work) -> None:
        """Link the images under names that sort in the items' order, and the checkpoint where the peer looks for it."""
        self._compared, weights = work.compared, Path(work.weights)
        images = self._folder / "images"
        images.mkdir(parents=True)
        for number, item in enumerate(work.items):
            (images / f"{number:08d}{Path(item).suffix}").symlink_to(item)
        (self._folder / weights.name).symlink_to(weights)
        self._model = f"open_clip:{work.model.name}/{weights.name}"

    def measure(self) -> Measured:
        """Run one process. The rate is measured from the end of its first batch; the remark has that of the whole process."""
        output = f"out-{time.monotonic_ns()}"
        settings = {
            "input_dataset": "images", "output_folder": output, "clip_model": self._model, "batch_size": BATCH,
            "num_prepro_workers": max(2, os.cpu_count() or 2), "enable_text": False,
        }  # fmt: skip
        start = time.perf_counter()
        # -P keeps this folder, whose module names would clash with the peer's, out of sys.path.
        command = [str(self._python), "-P", str(INSIDE), json.dumps(settings), "report.json"]
        run = subprocess.run(command, cwd=self._folder, capture_output=True, text=True)
        total_seconds = time.perf_counter() - start
        if run.returncode:
            sys.exit(f"clip-retrieval ended with status {run.returncode}: {run.stderr[-2000:]}")
        report = json.loads((self._folder / "report.json").read_text())
        vectors = np.load(self._folder / output / "img_emb" / "img_emb_0.npy").astype(np.float32)
        remark = f"batch {BATCH}; whole process {len(vectors) / total_seconds:.1f}/s"
        return Measured(report["items"], report["seconds"], vectors[: self._compared], remark)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
