"""Bring exact neighbors up to date after items were removed and added, without comparing the others again."""

from __future__ import annotations

from typing import NamedTuple

import faiss
import numpy as np

from indexmill.tasks.metrics.exact_search import exact_search, select_top_k


class KnownNeighbors(NamedTuple):
    """The nearest neighbors of queries, as far as they are known.

    Attributes:
        scores: float32 (n, depth), best first, ties by ascending id.
        ids: int64 (n, depth); -1 behind the last known rank.
        is_complete: bool (n,), whether the whole database is in the row.
    """

    scores: np.ndarray
    ids: np.ndarray
    is_complete: np.ndarray

    def count_known(self) -> np.ndarray:
        """Return how many ranks of each query are known, int64 (n,)."""
        return (self.ids >= 0).sum(axis=1)

    def select(self, rows: np.ndarray) -> KnownNeighbors:
        """Return the rows of these queries."""
        return KnownNeighbors(self.scores[rows], self.ids[rows], self.is_complete[rows])


def update_neighbors(
    known: KnownNeighbors,
    queries: np.ndarray,
    removed_ids: np.ndarray,
    added: tuple[np.ndarray, np.ndarray],
    metric: int,
) -> KnownNeighbors:
    """Remove items from the rankings and merge others in.

    Every item that is in no ranking comes after the last rank that was known. So what the merged ranking has up to there
    is what a search of the whole database finds; what comes after it is dropped, and a row may become shorter.

    Args:
        known: The neighbors of the queries before.
        queries: float32 (n, dim).
        removed_ids: Items that are gone or have another vector now, int64.
        added: Ids int64 (m,) and vectors float32 (m, dim) of the items that are new or have another vector now.
        metric: A FAISS metric type.

    Returns:
        The neighbors now, of the same depth.
    """
    higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
    depth, worst = known.ids.shape[1], -np.inf if higher_is_better else np.inf
    added_ids, added_vectors = added
    kept_ids = np.where(np.isin(known.ids, removed_ids), -1, known.ids)
    kept_scores = np.where(kept_ids < 0, np.float32(worst), known.scores)
    is_complete = known.is_complete & ((kept_ids >= 0).sum(axis=1) + len(added_ids) <= depth)
    if len(added_ids):
        new_scores, new_ids = exact_search(queries, [(added_ids, added_vectors)], min(depth, len(added_ids)), metric)
        kept_scores, kept_ids = np.hstack([kept_scores, new_scores]), np.hstack([kept_ids, new_ids])
    scores, ids = select_top_k(kept_scores, kept_ids, depth, higher_is_better=higher_is_better)
    is_known = (ids >= 0) & (known.is_complete[:, None] | _comes_before(scores, ids, _find_last_rank(known), higher_is_better))
    return KnownNeighbors(np.where(is_known, scores, np.float32(worst)), np.where(is_known, ids, -1), is_complete)


def _find_last_rank(known: KnownNeighbors) -> tuple[np.ndarray, np.ndarray]:
    """Return score and id of the last known rank of each query, both (n, 1); id -1 if none is known."""
    last = np.maximum(known.count_known() - 1, 0)[:, None]
    return np.take_along_axis(known.scores, last, axis=1), np.take_along_axis(known.ids, last, axis=1)


def _comes_before(scores: np.ndarray, ids: np.ndarray, last: tuple[np.ndarray, np.ndarray], higher_is_better: bool) -> np.ndarray:
    """Return which ranks are at most as far as the last known one, bool (n, depth); none where no rank was known."""
    last_scores, last_ids = last
    is_nearer = scores > last_scores if higher_is_better else scores < last_scores
    return (last_ids >= 0) & (is_nearer | ((scores == last_scores) & (ids <= last_ids)))
