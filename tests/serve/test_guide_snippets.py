"""The Python snippets of docs/serving.md, run as written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from indexmill.serve import open_index
from tests.serve.conftest import SENTENCES

GUIDE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def read_snippets(section: str) -> list[str]:
    """Return the Python blocks of a section."""
    text = GUIDE.partition(f"\n{section}\n")[2]
    return re.findall(r"```python\n(.*?)```", re.split(r"\n#{2,3} ", text)[0], re.S)


def adapt_snippet(snippet: str, root: Path) -> str:
    """Make a snippet use the tests' index of sentences."""
    return snippet.replace("indexmill-data", str(root)).replace("demo-text", "sentences").replace('label="datetime"', 'label="sea"')


def test_the_open_index_snippet_returns_results(published: Path) -> None:
    """Three results with the requested label."""
    (snippet,) = read_snippets("## From Python")
    names: dict[str, Any] = {}
    exec(adapt_snippet(snippet, published), names)
    assert [result.label for result in names["answer"].results[0]] == ["sea"] * 3


def test_faiss_duckdb_and_datasets_read_a_snapshot_without_indexmill(published: Path) -> None:
    """FAISS returns the ids and scores of open_index, DuckDB their rows, and datasets all labels."""
    index = open_index(published, "sentences")
    expected = index.search(texts=["a boat on the water"], k=5).results[0]
    names: dict[str, Any] = {"query": index.encoder.encode(["a boat on the water"], "text")}
    for snippet in read_snippets("## Without Indexmill"):
        exec(adapt_snippet(snippet, published), names)
    assert names["ids"][0].tolist() == [result.item_id for result in expected]
    assert np.allclose(names["scores"][0], [result.score for result in expected], atol=1e-5)
    assert sorted(names["found"]) == sorted((result.item_id, result.key, result.label, result.text) for result in expected)
    assert set(names["labels"]) <= {label for label, _ in SENTENCES}
    assert len(names["items"]) == len(SENTENCES)
