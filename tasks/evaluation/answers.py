"""What was asked of an index, and what it answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexmill.tasks.indexes.searcher import Searcher
from indexmill.tasks.measures.exclusion import moved_up
from indexmill.tasks.progress import track

QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Answers:
    """ids: the queries, int64 (queries,); vectors: float32 (queries, dim); found: item ids int64 (queries, depth), -1 for an empty place.

    scores: float32 of that shape, FAISS's own. So it grows with queries times depth, both of which the config bounds.
    """

    ids: np.ndarray
    vectors: np.ndarray
    scores: np.ndarray
    found: np.ndarray


def answers(searcher: Searcher, ids: np.ndarray, queries: np.ndarray, k: int, depth: int) -> Answers:
    """Ask for the k best items of every query, and then for the rest of the `depth` best.

    The first k places are what a caller who wants k gets. A deep search looks at more candidates than that one does, and would flatter it.
    """
    scores, found = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
    with track("searching", len(queries)) as advance:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            batch = slice(start, start + QUERIES_AT_ONCE)
            scores[batch], found[batch] = _asked(searcher, queries[batch], min(k, depth), depth)
            advance(len(found[batch]))
    return Answers(ids, queries, scores, found)


def _asked(searcher: Searcher, queries: np.ndarray, k: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
    scores, found = searcher.search(queries, k)
    if depth == k:
        return scores, found
    deep_scores, deep = searcher.search(queries, depth)
    again = (deep[:, :, None] == found[:, None, :]).any(axis=2)
    worst = -np.inf if searcher.larger else np.inf
    rest = moved_up(deep_scores, again, worst), moved_up(deep, again)
    return np.hstack([scores, rest[0]])[:, :depth], np.hstack([found, rest[1]])[:, :depth]
