"""Queries with their first results, as rows of the items table: some by chance, the best and the worst."""

from __future__ import annotations

from typing import Any

import numpy as np

from indexmill.storage import tables
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.answers import Answers

RESULTS = 6
COLUMNS = ("item_id", "key", "label", "text", "path", "content_digest")


def chosen_rows(figures: np.ndarray | None, queries: int, count: int) -> dict[str, list[int]]:
    """Query rows to show: `examples`, the first by id (so by chance, as ids are hashes), `best` and `worst` by a figure of each query.

    figures: float64 (queries,), NaN for a query without one; None when there is nothing to rank by. Equals stand by row; a query is not
    both among the best and the worst.
    """
    rows = {"examples": list(range(min(count, queries))), "best": [], "worst": []}
    if figures is not None and count:
        ranked = np.flatnonzero(np.isfinite(figures))
        ranked = ranked[np.argsort(figures[ranked], kind="stable")]
        several = min(count, len(ranked) // 2)
        rows |= {"worst": ranked[:several].tolist(), "best": ranked[::-1][:several].tolist()}
    return rows


def shown(
    root: Root, embeddings: EmbeddingSet, given: Answers, rows: dict[str, list[int]], figures: np.ndarray | None
) -> dict[str, list[dict[str, Any]]]:
    """The same with what they show: `query`, `results` (each with its `score`), and the `figure` of the query or None."""
    every = sorted({row for some in rows.values() for row in some})
    wanted = {int(item) for item in (*given.ids[every], *given.found[every, :RESULTS].ravel()) if item >= 0}
    items = _items(root, embeddings, sorted(wanted))
    told = {row: _told(given, row, items, figures) for row in every}
    return {name: [told[row] for row in some] for name, some in rows.items()}


def _told(given: Answers, row: int, items: dict[int, dict[str, Any]], figures: np.ndarray | None) -> dict[str, Any]:
    ranking = zip(given.found[row, :RESULTS], given.scores[row, :RESULTS], strict=True)
    figure = None if figures is None or not np.isfinite(figures[row]) else float(figures[row])
    results = [{**items[int(item)], "score": float(score)} for item, score in ranking if item >= 0]
    return {"query": items[int(given.ids[row])], "results": results, "figure": figure}


def _items(root: Root, embeddings: EmbeddingSet, ids: list[int]) -> dict[int, dict[str, Any]]:
    if not ids:
        return {}
    table = tables.parquet(root.file(embeddings.items))
    sql = f"SELECT {', '.join(COLUMNS)} FROM {table} WHERE item_id IN ({', '.join(map(str, ids))})"
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in tables.rows(sql, spill=root.tmp)}
