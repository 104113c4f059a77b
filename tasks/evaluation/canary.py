"""Ask the index for stored items by their own vectors, so that an index that answers wrongly is never published.

The other metrics compare an index with itself or with labels, and a family that sorts by the wrong measure can pass them.
An item's own vector has a known answer: the item comes first, or one that is exactly as near.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.indexing.chunk_search import exact_search_items
from indexmill.tasks.indexing.searcher import Searcher

CANARIES = 64
CUTOFF = 10  # a quantized index may confuse an item with its neighbors
TIES = 100  # equally near items that count as the answer
TIE_TOLERANCE = 1e-5  # relative
MIN_FOUND = 0.5


class CanaryResult(NamedTuple):
    """How many items were asked for, and how many were found among the first CUTOFF results."""

    sampled: int
    found: int


def check_canaries(
    root: Root, indexed: EmbeddingSet, searcher: Searcher, *, seed: int, factory: str, metric: str, side: Side = "database"
) -> CanaryResult:
    """Search for a sample of the items of one side by their own vectors.

    Args:
        root: The storage root.
        indexed: The vectors that the index holds.
        searcher: The index of that side with its search parameters.
        seed: The seed of the sample.
        factory: The index's factory, for the error.
        metric: The configured metric, for the error.
        side: The side.

    Raises:
        InputError: Fewer than MIN_FOUND of them are found.
    """
    with open_vectors(root, indexed, side=side, sample=(CANARIES, seed)) as blocks:
        _, vectors = concatenate_blocks(blocks, indexed.dim)
    if not len(vectors):
        return CanaryResult(0, 0)
    exact_scores, exact_ids = exact_search_items(root, indexed, vectors, min(TIES, getattr(indexed, side)), searcher.metric, side=side)
    _, retrieved = searcher.search(vectors, CUTOFF)
    result = CanaryResult(len(vectors), count_found(retrieved, exact_scores, exact_ids))
    if result.found < MIN_FOUND * result.sampled:
        raise InputError(
            "the index does not find its own items",
            where=f"index.factory = {factory}, index.metric = {metric}, the {side} side",
            expected=f"an item among the first {CUTOFF} results for its own vector, for at least {MIN_FOUND:.0%} of a sample",
            got=f"{result.found} of {result.sampled} items found",
            next_step="choose another factory, such as Flat or auto, or a finer quantizer; this build is not published",
        )
    return result


def count_found(retrieved: np.ndarray, exact_scores: np.ndarray, exact_ids: np.ndarray) -> int:
    """Count the queries whose results hold the exact best item, or one that is as near.

    Args:
        retrieved: Item ids int64 (n, k); -1 for empty ranks.
        exact_scores: FAISS's scores of exact search, float32 (n, m), best first.
        exact_ids: Their item ids, int64 (n, m).
    """
    best = exact_scores[:, :1]
    is_tied = np.abs(exact_scores - best) <= TIE_TOLERANCE * np.maximum(1, np.abs(best))
    is_answer = (retrieved[:, :, None] == np.where(is_tied & (exact_ids >= 0), exact_ids, -2)[:, None, :]).any(axis=(1, 2))
    return int(is_answer.sum())
