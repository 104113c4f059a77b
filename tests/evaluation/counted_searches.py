"""Count the queries that a search for ground truth compares with the whole database."""

from __future__ import annotations

from typing import Any

import pytest

from indexmill.tasks.evaluation import ground_truth
from indexmill.tasks.metrics.neighbor_updates import KnownNeighbors


def count_searched(monkeypatch: pytest.MonkeyPatch, function: str) -> list[int]:
    """Return a list that gets the number of queries of each call of `_search_all` or `_search_rows`."""
    searched: list[int] = []
    search = getattr(ground_truth, function)

    def count(root: Any, request: Any, queries: Any, runner: Any) -> KnownNeighbors:
        searched.append(len(queries))
        return search(root, request, queries, runner)

    monkeypatch.setattr(ground_truth, function, count)
    return searched
