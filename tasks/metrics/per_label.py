"""Metrics per label, and the labels that are confused most often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from indexmill.tasks.evaluation.labels import UNLABELED


def average_per_label(labels: np.ndarray, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Label codes that have queries, ascending; queries of each; and the mean of each measure over them, float64 (labels,).

    labels: codes of the queries (queries,); UNLABELLED ones are left out. values: measures (queries,) as of `per_query`; the denominator is
    the label's queries given, so give only those that were judged.
    """
    labeled = labels != UNLABELED
    codes, place, queries = np.unique(labels[labeled], return_inverse=True, return_counts=True)
    means = {name: np.bincount(place, column[labeled], len(codes)) / queries for name, column in values.items()}
    return codes, queries, means


def macro_average(means: np.ndarray) -> float:
    """The mean over labels of their means: every label counts the same, however many queries it has; NaN without a label."""
    return float(means.mean()) if len(means) else float("nan")


@dataclass(frozen=True)
class Confusion:
    """Results of label `retrieved` among the first k of queries of label `query` (codes): count, and its share of those queries' results."""

    query: int
    retrieved: int
    count: int
    share: float


def find_largest_confusions(blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, limit: int = 50) -> list[Confusion]:
    """The `limit` largest confusions between two different labels, largest count first, equals by query label, then found label.

    blocks: label codes of queries (n,) and of their rankings (n, >= k), UNLABELLED for no label or an empty place: neither is counted. The
    share's denominator is the labelled results among the first k of that label's queries. Holds a number for every pair of labels that
    occurs: at most queries * k, and labels squared.
    """
    pairs, counts = np.empty((0, 2), np.int64), np.empty(0, np.int64)
    for wanted, retrieved in blocks:
        fresh, times = np.unique(_label_pairs(wanted, retrieved[:, :k]), axis=0, return_counts=True)
        pairs, row = np.unique(np.concatenate([pairs, fresh]), axis=0, return_inverse=True)
        counts = np.bincount(row.reshape(-1), np.concatenate([counts, times]), len(pairs)).astype(np.int64)
    if not len(pairs):
        return []
    _, query = np.unique(pairs[:, 0], return_inverse=True)
    results = np.bincount(query, counts)[query]
    confused = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
    order = confused[np.argsort(-counts[confused], kind="stable")][:limit]
    return [Confusion(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i]), float(counts[i] / results[i])) for i in order]


def _label_pairs(wanted: np.ndarray, retrieved: np.ndarray) -> np.ndarray:
    pairs = np.stack([np.broadcast_to(wanted[:, None], retrieved.shape).ravel(), retrieved.ravel()], axis=1).astype(np.int64)
    return pairs[(pairs != UNLABELED).all(axis=1)]
