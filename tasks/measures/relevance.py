"""Relevance of a ranking, query by query: by label (an item with the query's label is relevant) or by given pairs.

All measures take `hits`, bool (queries, depth): whether the item at each rank is relevant; a place that stayed empty is no hit. And
`relevant`, int (queries,): how many relevant items the database holds, at least 1. A query without any is left out by the caller and
counted. The query itself and its duplicates are taken out of both first (`exclusion`). The definitions are trec_eval's (P_k, recall_k,
success_k, map, map_cut_k, Rprec, recip_rank, ndcg_cut_k). Ties are the ranking's: equal scores stand by ascending item id.
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
    row, place = np.nonzero(hits)
    nth = np.arange(1, len(row) + 1) - np.searchsorted(row, row)
    return np.bincount(row, nth / (place + 1), len(hits)) / relevant


def average_precision_at(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """AP@k = AP of the first k places, float64 (queries,). The denominator stays the relevant items in the database, not min(k, them)."""
    return average_precision(hits[:, :k], relevant)


def r_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """R-precision = (relevant items among the first R) / R with R = relevant items in the database, float64 (queries,).

    Places beyond the depth of the ranking are misses.
    """
    within = np.arange(hits.shape[1]) < np.asarray(relevant)[:, None]
    return (hits & within).sum(axis=1) / relevant


def hit_rate_at(hits: np.ndarray, k: int) -> np.ndarray:
    """Hit rate@k = 1 where a relevant item is among the first k, else 0, float64 (queries,). No denominator but the queries'."""
    return np.where(hits[:, :k].any(axis=1), 1.0, 0.0)


def reciprocal_rank(hits: np.ndarray) -> np.ndarray:
    """RR = 1 / (rank of the first relevant item), 0 where there is none, float64 (queries,). MRR is its mean."""
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0) if hits.shape[1] else np.zeros(len(hits))


def dcg_at(gains: np.ndarray, k: int) -> np.ndarray:
    """DCG@k = sum over ranks r <= k of gains[r] / log2(r + 1), float64 (queries,): linear gains (Järvelin and Kekäläinen, 2002)."""
    first = gains[:, :k]
    return (first / np.log2(np.arange(2, first.shape[1] + 2))).sum(axis=1)


def ndcg_at(gains: np.ndarray, ideal: np.ndarray, k: int) -> np.ndarray:
    """nDCG@k = DCG@k / DCG@k of the ideal ranking, float64 (queries,).

    gains (queries, depth): what the item at each rank is worth, 0 or more. ideal (queries, >= min(k, relevant)): the gains of all
    relevant items of the database, largest first, then zeros (`ideal_hits`, `Judgements.ideal`). 0 where the ideal is worth nothing.
    """
    best = dcg_at(ideal, k)
    return np.where(best > 0, dcg_at(gains, k) / np.where(best > 0, best, 1), 0)


def ideal_hits(relevant: np.ndarray, k: int) -> np.ndarray:
    """The best ranking where every relevant item is worth 1: bool (queries, k), the first `relevant` places of each row."""
    return np.arange(k) < np.asarray(relevant)[:, None]
