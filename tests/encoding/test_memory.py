"""Memory that really runs out, in a process of its own with a limit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch
from indexmill.configs.loading import load_config
from indexmill.tasks.encoding import load_encoder
from indexmill.tasks.encoding.row_batches import find_fastest_batch_size
from indexmill.tasks.encoding.base import encode_batches

torch.set_num_threads(1)
kind, precision, mebibytes = sys.argv[1:]
encoder = load_encoder(load_config(kind).encoder, precision)
random = np.random.default_rng(0)
if kind == "demo-text":
    items = [" ".join(random.choice(["sun", "moon", "star", "a"], 250)) for _ in range(64)]
else:
    items = list(random.integers(0, 255, (64, 224, 224, 3), np.uint8))
expected = encode_batches(encoder, items).vectors
encoder.batch_size = encoder.window = len(items)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(mebibytes) * 2**20, resource.RLIM_INFINITY))
difference = np.abs(encode_batches(encoder, items).vectors - expected).max()
print(json.dumps({"batch": encoder.batch_size, "difference": float(difference), "fastest": find_fastest_batch_size(encoder, items)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS of Linux")
@pytest.mark.parametrize(
    ("kind", "precision", "mebibytes"), [("demo-images", "float32", 80), ("demo-images", "bfloat16", 80), ("demo-text", "float32", 40)]
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(kind: str, precision: str, mebibytes: int) -> None:
    """With too little memory for 64 items at once, the batch shrinks and every vector stays the same."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, precision, str(mebibytes)], capture_output=True, text=True, check=False, timeout=900
    )
    assert run.returncode == 0, run.stderr[-2000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert 1 <= result["batch"] < 64
    assert result["fastest"] <= 64
    assert result["difference"] < (1e-4 if precision == "float32" else 0.02)
