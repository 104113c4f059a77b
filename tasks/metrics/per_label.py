"""Means per label, and the labels that are confused most often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

UNLABELED = -1  # the label code of an item without a label


def average_per_label(labels: np.ndarray, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Average metrics over the queries of each label.

    Args:
        labels: the label codes of the queries, int (queries,); UNLABELED ones are left out.
        values: metric name -> values, float64 (queries,). The denominator is the number of queries given per label, so
            pass only judged ones.

    Returns:
        The label codes that have queries, ascending; the number of queries of each; and the mean of each metric,
        float64 (labels,).
    """
    is_labeled = labels != UNLABELED
    codes, rows, queries = np.unique(labels[is_labeled], return_inverse=True, return_counts=True)
    means = {name: np.bincount(rows, column[is_labeled], len(codes)) / queries for name, column in values.items()}
    return codes, queries, means


def macro_average(means: np.ndarray) -> float:
    """Average the means of the labels: every label counts the same, however many queries it has. NaN without labels."""
    return float(means.mean()) if len(means) else float("nan")


@dataclass(frozen=True)
class Confusion:
    """The results of label `retrieved` for queries of label `query` (codes): their count, and their share of those
    queries' results.
    """

    query: int
    retrieved: int
    count: int
    share: float


def find_largest_confusions(blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, limit: int = 50) -> list[Confusion]:
    """Find the pairs of different labels that are confused most often.

    Holds one number per pair of labels that occurs: at most queries * k, and at most the square of the number of
    labels.

    Args:
        blocks: label codes of queries (n,) and of their rankings (n, >= k); UNLABELED items and empty ranks are not
            counted.
        k: the number of first results that count.
        limit: the number of confusions.

    Returns:
        The largest confusions, by descending count, then by query label, then by retrieved label. The denominator of a
        share is the number of labeled results among the first k of that label's queries.
    """
    pairs, counts = np.empty((0, 2), np.int64), np.empty(0, np.int64)
    for query_labels, retrieved_labels in blocks:
        block_pairs, times = np.unique(_pair_labels(query_labels, retrieved_labels[:, :k]), axis=0, return_counts=True)
        pairs, row = np.unique(np.concatenate([pairs, block_pairs]), axis=0, return_inverse=True)
        counts = np.bincount(row.reshape(-1), np.concatenate([counts, times]), len(pairs)).astype(np.int64)
    if not len(pairs):
        return []
    _, query = np.unique(pairs[:, 0], return_inverse=True)
    results = np.bincount(query, counts)[query]
    confused = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
    order = confused[np.argsort(-counts[confused], kind="stable")][:limit]
    return [Confusion(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i]), float(counts[i] / results[i])) for i in order]


def _pair_labels(query_labels: np.ndarray, retrieved_labels: np.ndarray) -> np.ndarray:
    pairs = np.stack([np.broadcast_to(query_labels[:, None], retrieved_labels.shape).ravel(), retrieved_labels.ravel()], axis=1)
    return pairs[(pairs != UNLABELED).all(axis=1)].astype(np.int64)
