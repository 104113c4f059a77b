"""Which labels are taken for which: the label of a query against the labels of its first results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from indexmill.tasks.measures.labels import UNLABELLED


@dataclass(frozen=True)
class Confusion:
    """Results of label `found` among the first k of queries of label `query` (codes): count, and its share of those queries' results."""

    query: int
    found: int
    count: int
    share: float


def largest_confusions(blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, most: int = 50) -> list[Confusion]:
    """The `most` largest confusions between two different labels, largest count first, equals by query label, then found label.

    blocks: label codes of queries (n,) and of their rankings (n, >= k), UNLABELLED for no label or an empty place: neither is counted. The
    share's denominator is the labelled results among the first k of that label's queries. Holds a number for every pair of labels that
    occurs: at most queries * k, and labels squared.
    """
    pairs, counts = np.empty((0, 2), np.int64), np.empty(0, np.int64)
    for wanted, found in blocks:
        fresh, times = np.unique(_pairs(wanted, found[:, :k]), axis=0, return_counts=True)
        pairs, row = np.unique(np.concatenate([pairs, fresh]), axis=0, return_inverse=True)
        counts = np.bincount(row.reshape(-1), np.concatenate([counts, times]), len(pairs)).astype(np.int64)
    if not len(pairs):
        return []
    _, query = np.unique(pairs[:, 0], return_inverse=True)
    results = np.bincount(query, counts)[query]
    confused = np.flatnonzero(pairs[:, 0] != pairs[:, 1])
    order = confused[np.argsort(-counts[confused], kind="stable")][:most]
    return [Confusion(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i]), float(counts[i] / results[i])) for i in order]


def _pairs(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    pairs = np.stack([np.broadcast_to(wanted[:, None], found.shape).ravel(), found.ravel()], axis=1).astype(np.int64)
    return pairs[(pairs != UNLABELLED).all(axis=1)]
