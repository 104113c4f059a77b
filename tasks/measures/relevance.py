"""Relevance by label: a database item is relevant to a query when both have the same label.

All measures take `hits`, bool (queries, depth): whether the item at each rank is relevant; a place that stayed empty is no hit. And
`relevant`, int (queries,): how many relevant items the database holds. A query without any is left out by the caller and counted.
The definitions are trec_eval's (P_k, recall_k, map). Ties are the ranking's: equal scores stand by ascending item id.
"""

from __future__ import annotations

import numpy as np


def precision_at(hits: np.ndarray, k: int) -> np.ndarray:
    """P@k = (relevant items among the first k) / k, float64 (queries,). The denominator is k even where fewer were found."""
    return hits[:, :k].sum(axis=1) / k


def recall_at(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """R@k = (relevant items among the first k) / (relevant items in the database), float64 (queries,)."""
    return hits[:, :k].sum(axis=1) / relevant


def average_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """AP = sum over ranks r of hits[r] * P@r, / (relevant items in the database), float64 (queries,).

    Relevant items beyond the depth of the ranking count as never found, as in trec_eval's `map` with a run of that depth.
    """
    ranks = np.arange(1, hits.shape[1] + 1)
    return (hits * hits.cumsum(axis=1) / ranks).sum(axis=1) / relevant


def reciprocal_rank(hits: np.ndarray) -> np.ndarray:
    """RR = 1 / (rank of the first relevant item), 0 where there is none, float64 (queries,)."""
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)
