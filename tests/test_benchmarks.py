"""Benchmarks do not run with the tests, so they break in silence when something is renamed: here they are at least imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "benchmarks"
INSIDE_A_PEER = {"encoding.clip_retrieval_inside"}  # runs in the peer's own virtual environment, and is compiled here
IMPORTING = """
import importlib, sys, traceback
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException:
        print(f"{name}: {traceback.format_exc(limit=-2)}")
"""


def modules() -> list[str]:
    """Every file under benchmarks/ as both of the names under which the scripts know each other."""
    names = []
    for path in sorted(FOLDER.rglob("*.py")):
        parts = path.relative_to(FOLDER).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.slow
def test_every_benchmark_can_be_imported() -> None:
    """In one process, with benchmarks/ first on the path as `python benchmarks/NAME.py` has it, and the repository beside it."""
    names = modules()
    assert {"spine", "index", "evaluate", "encoding", "encoding.report", "evaluating.work", *INSIDE_A_PEER} <= set(names)
    for name in INSIDE_A_PEER:
        path = FOLDER / (name.replace(".", "/") + ".py")
        compile(path.read_text(encoding="utf-8"), path, "exec")
    here = [name for name in names if name not in INSIDE_A_PEER]
    run = subprocess.run(
        [sys.executable, "-c", IMPORTING, *here], cwd=REPOSITORY, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": f"{FOLDER}:{REPOSITORY}"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ""


def test_every_benchmark_of_make_bench_exists() -> None:
    """By path or by module name."""
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8").split("bench: ")[1].split("\n\n")[0]
    called = [word for word in makefile.split() if word.startswith("benchmarks")]
    assert len(called) >= 5
    for name in called:
        assert (REPOSITORY / (name if name.endswith(".py") else name.replace(".", "/") + ".py")).is_file(), name
