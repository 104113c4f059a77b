"""Relevance metrics of a ranking, one value per query.

All functions take `hits`, bool (queries, depth): whether the item at each rank is relevant (an empty rank is not). `relevant`, int
(queries,), is the number of relevant items in the database, at least 1; the caller leaves out and counts queries without any. The query
itself and its duplicates are removed from both first (`exclusion`). The definitions are those of trec_eval (P_k, recall_k, success_k,
map, map_cut_k, Rprec, recip_rank, ndcg_cut_k, iprec_at_recall). Ties are broken by the ranking: equal scores by ascending item id."""

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


def ndcg_at(gains: np.ndarray, ideal_gains: np.ndarray, k: int) -> np.ndarray:
    """nDCG@k = DCG@k / DCG@k of the ideal ranking, float64 (queries,).

    gains (queries, depth): what the item at each rank is worth, 0 or more. ideal (queries, >= min(k, relevant)): the gains of all
    relevant items of the database, largest first, then zeros (`ideal_hits`, `Qrels.ideal_gains`). 0 where the ideal is worth nothing.
    """
    best = dcg_at(ideal_gains, k)
    return np.where(best > 0, dcg_at(gains, k) / np.where(best > 0, best, 1), 0)


def ideal_hits(relevant: np.ndarray, k: int) -> np.ndarray:
    """The best ranking where every relevant item is worth 1: bool (queries, k), the first `relevant` places of each row."""
    return np.arange(k) < np.asarray(relevant)[:, None]


RANKS_AT_ONCE = 1 << 22


def compute_query_metrics(
    hits: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...], gains: np.ndarray | None = None, ideal_gains: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """One column a measure, float64 (queries,): `map` and `mrr` over the depth given, `r_precision`, and five measures at every k.

    hits, relevant: as in `relevance`. gains, ideal: as in `ndcg_at`; by default every relevant item is worth 1. Works on PLACES_AT_ONCE
    places of the rankings together.
    """
    step = max(1, RANKS_AT_ONCE // max(hits.shape[1], 1))
    blocks = [slice(start, start + step) for start in range(0, max(len(hits), 1), step)]
    parts = [_compute_block(hits[at], relevant[at], ks, _slice_or_none(gains, at), _slice_or_none(ideal_gains, at)) for at in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _slice_or_none(rows: np.ndarray | None, at: slice) -> np.ndarray | None:
    return None if rows is None else rows[at]


def _compute_block(
    hits: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...], gains: np.ndarray | None, ideal_gains: np.ndarray | None
) -> dict[str, np.ndarray]:
    worth = hits if gains is None else gains
    best = ideal_hits(relevant, max(ks, default=1)) if ideal_gains is None else ideal_gains
    columns = {
        "map": average_precision(hits, relevant),
        "mrr": reciprocal_rank(hits),
        "r_precision": r_precision(hits, relevant),
    }
    for k in ks:
        columns[f"precision_at_{k}"] = precision_at(hits, k)
        columns[f"recall_at_{k}"] = recall_at(hits, relevant, k)
        columns[f"map_at_{k}"] = average_precision_at(hits, relevant, k)
        columns[f"ndcg_at_{k}"] = ndcg_at(worth, best, k)
        columns[f"hit_rate_at_{k}"] = hit_rate_at(hits, k)
    return columns


RECALL_LEVELS = np.arange(11) / 10


def interpolated_precision(hits: np.ndarray, relevant: np.ndarray, levels: np.ndarray = RECALL_LEVELS) -> np.ndarray:
    """Interpolated precision at each recall level, float64 (queries, levels): the best P@r at any rank r where recall is at the level.

    hits, relevant: as in `relevance`. A level that the ranking never reaches is 0. trec_eval's iprec_at_recall, whose cut-off is the
    rank that holds floor(level * relevant + 0.9) relevant items.
    """
    found = np.cumsum(hits, axis=1)
    precision = found / np.arange(1, hits.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.floor(levels * relevant[:, None] + 0.9)
    precisions = np.zeros(needed.shape)
    for column in range(needed.shape[1]):
        reached = found >= needed[:, column : column + 1]
        first = reached.argmax(axis=1)
        precisions[:, column] = np.where(reached.any(axis=1), np.take_along_axis(best, first[:, None], axis=1)[:, 0], 0)
    return precisions
