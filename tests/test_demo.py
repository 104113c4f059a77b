"""The demo answers questions about Python's standard library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Question -> names of which one must be among the first three results.
QUESTIONS = {
    "parse a date out of a string": {"datetime.datetime.strptime", "datetime.date.fromisoformat", "datetime.datetime.fromisoformat"},
    "copy a file with its permissions": {"shutil.copy", "shutil.copy2", "shutil.copymode"},
    "compute the median of some numbers": {"statistics.median", "statistics.median_low", "statistics.median_high"},
    "remove indentation from every line of a text": {"textwrap.dedent", "inspect.cleandoc"},
}


@pytest.fixture(scope="module")
def demo_text(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which demo-text was built as it is bundled."""
    from indexmill.flows.build_index import build_index

    root = tmp_path_factory.mktemp("demo") / "root"
    build_index("demo-text", str(root), ["evaluation.encode_latency_queries=0", "evaluation.projection_seconds=0"])
    return root


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_demo_finds_the_function(question: str, demo_text: Path) -> None:
    """Among the first three results."""
    command = [sys.executable, "-m", "indexmill", "search", "demo-text", question, "-k", "3", "--json", "--root", str(demo_text)]
    answer: Any = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=900).stdout)
    keys = [result["key"] for result in (answer["results"] if isinstance(answer, dict) else answer)]
    assert QUESTIONS[question] & set(keys), keys
