"""What was asked of an index, and what it answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.indexes.searcher import Searcher
from tasks.progress import track

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


def answers(searcher: Searcher, ids: np.ndarray, queries: np.ndarray, depth: int) -> Answers:
    """Ask the index for the `depth` best items of every query."""
    scores, found = np.empty((len(queries), depth), np.float32), np.empty((len(queries), depth), np.int64)
    with track("searching", len(queries)) as advance:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            batch = slice(start, start + QUERIES_AT_ONCE)
            scores[batch], found[batch] = searcher.search(queries[batch], depth)
            advance(len(found[batch]))
    return Answers(ids, queries, scores, found)
