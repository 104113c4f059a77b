"""Relevance metrics of a ranking, one value per query.

All functions take `hits`, bool (queries, depth): whether the item at each rank is relevant (an empty rank is not).
`relevant`, int (queries,), is the number of relevant items in the database, at least 1; the caller leaves out and
counts queries without any. The query itself and its duplicates are removed from both first (`exclusion`). All return
float64 (queries,) unless they say otherwise. The definitions are those of trec_eval (P_k, recall_k, success_k, map,
map_cut_k, Rprec, recip_rank, ndcg_cut_k, iprec_at_recall). The ranking breaks ties: equal scores by ascending item id.
"""

from __future__ import annotations

import numpy as np

RANKS_AT_ONCE = 1 << 22  # ranks of all queries that are worked on together
RECALL_LEVELS = np.arange(11) / 10


def precision_at(hits: np.ndarray, k: int) -> np.ndarray:
    """Compute P@k = (relevant items among the first k) / k. The denominator is k even if fewer items were retrieved."""
    return hits[:, :k].sum(axis=1) / k


def recall_at(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Compute R@k = (relevant items among the first k) / (relevant items in the database)."""
    return hits[:, :k].sum(axis=1) / relevant


def average_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Compute AP = (sum over ranks r of hits[r] * P@r) / (relevant items in the database).

    Relevant items beyond the depth of the ranking count as not retrieved, as in trec_eval's `map` with a run of that
    depth.
    """
    row, column = np.nonzero(hits)
    nth = np.arange(1, len(row) + 1) - np.searchsorted(row, row)
    return np.bincount(row, nth / (column + 1), len(hits)) / relevant


def average_precision_at(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Compute AP@k = AP of the first k ranks.

    The denominator stays the relevant items in the database, not min(k, them).
    """
    return average_precision(hits[:, :k], relevant)


def r_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Compute R-precision = (relevant items among the first R) / R, with R = relevant items in the database.

    Ranks beyond the depth of the ranking are misses.
    """
    is_within = np.arange(hits.shape[1]) < np.asarray(relevant)[:, None]
    return (hits & is_within).sum(axis=1) / relevant


def hit_rate_at(hits: np.ndarray, k: int) -> np.ndarray:
    """Compute hit rate@k = 1 if a relevant item is among the first k, else 0."""
    return np.where(hits[:, :k].any(axis=1), 1.0, 0.0)


def reciprocal_rank(hits: np.ndarray) -> np.ndarray:
    """Compute RR = 1 / (rank of the first relevant item), 0 without one. MRR is its mean."""
    return np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0) if hits.shape[1] else np.zeros(len(hits))


def reciprocal_rank_at(hits: np.ndarray, k: int) -> np.ndarray:
    """Compute RR@k = RR of the first k ranks, 0 without a relevant item among them."""
    return reciprocal_rank(hits[:, :k])


def judged_at(is_judged: np.ndarray, retrieved_counts: np.ndarray, k: int) -> np.ndarray:
    """Compute judged@k = (judged items, relevant or not, among the first k) / min(k, retrieved items), as ir_measures does.

    Args:
        is_judged: whether the item at each rank was judged for the query, bool (queries, depth); an empty rank was not.
        retrieved_counts: the number of retrieved items, int (queries,).
        k: the cutoff.

    Returns:
        float64 (queries,); 0 if nothing was retrieved.
    """
    return is_judged[:, :k].sum(axis=1) / np.clip(retrieved_counts, 1, k)


def dcg_at(gains: np.ndarray, k: int) -> np.ndarray:
    """Compute DCG@k = sum over ranks r <= k of gains[r] / log2(r + 1), with linear gains (Järvelin and Kekäläinen,
    2002).
    """
    first = gains[:, :k]
    return (first / np.log2(np.arange(2, first.shape[1] + 2))).sum(axis=1)


def ndcg_at(gains: np.ndarray, ideal_gains: np.ndarray, k: int) -> np.ndarray:
    """Compute nDCG@k = DCG@k / DCG@k of the ideal ranking; 0 if the ideal DCG is 0.

    Args:
        gains: the gain of the item at each rank, (queries, depth), 0 or more.
        ideal_gains: the gains of all relevant items of the database in descending order, padded with zeros, (queries,
            >= min(k, relevant)), as from `ideal_hits` or `Qrels.ideal_gains`.
        k: the cutoff.

    Returns:
        float64 (queries,).
    """
    ideal = dcg_at(ideal_gains, k)
    return np.where(ideal > 0, dcg_at(gains, k) / np.where(ideal > 0, ideal, 1), 0)


def ideal_hits(relevant: np.ndarray, k: int) -> np.ndarray:
    """Return the best possible ranking if every relevant item has gain 1: bool (queries, k), the first `relevant` ranks
    of each row.
    """
    return np.arange(k) < np.asarray(relevant)[:, None]


def interpolated_precision(hits: np.ndarray, relevant: np.ndarray, levels: np.ndarray = RECALL_LEVELS) -> np.ndarray:
    """Compute the interpolated precision at each recall level: the best P@r at any rank r whose recall reaches the
    level.

    This is trec_eval's iprec_at_recall, whose cutoff is the rank of the floor(level * relevant + 0.9)-th relevant item.

    Returns:
        float64 (queries, levels); 0 at levels that the ranking never reaches.
    """
    hit_counts = np.cumsum(hits, axis=1)
    precision = hit_counts / np.arange(1, hits.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.floor(levels * relevant[:, None] + 0.9)
    precisions = np.zeros(needed.shape)
    for column in range(needed.shape[1]):
        is_reached = hit_counts >= needed[:, column : column + 1]
        first = is_reached.argmax(axis=1)
        precisions[:, column] = np.where(is_reached.any(axis=1), np.take_along_axis(best, first[:, None], axis=1)[:, 0], 0)
    return precisions


def compute_query_metrics(
    hits: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...], gains: np.ndarray | None = None, ideal_gains: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute all metrics: `map`, `mrr` and `r_precision` over the whole depth, and five metrics at every k.

    Args:
        hits: bool (queries, depth).
        relevant: int (queries,).
        ks: the cutoffs.
        gains: as in `ndcg_at`; by default every relevant item has gain 1.
        ideal_gains: as in `ndcg_at`; goes with `gains`.

    Returns:
        Metric name -> float64 (queries,). Works on RANKS_AT_ONCE ranks at a time.
    """
    step = max(1, RANKS_AT_ONCE // max(hits.shape[1], 1))
    blocks = [slice(start, start + step) for start in range(0, max(len(hits), 1), step)]
    parts = [
        _compute_block(hits[block], relevant[block], ks, _slice_or_none(gains, block), _slice_or_none(ideal_gains, block))
        for block in blocks
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _slice_or_none(rows: np.ndarray | None, block: slice) -> np.ndarray | None:
    return None if rows is None else rows[block]


def _compute_block(
    hits: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...], gains: np.ndarray | None, ideal_gains: np.ndarray | None
) -> dict[str, np.ndarray]:
    gains = hits if gains is None else gains
    ideal_gains = ideal_hits(relevant, max(ks, default=1)) if ideal_gains is None else ideal_gains
    columns = {
        "map": average_precision(hits, relevant),
        "mrr": reciprocal_rank(hits),
        "r_precision": r_precision(hits, relevant),
    }
    for k in ks:
        columns[f"precision_at_{k}"] = precision_at(hits, k)
        columns[f"recall_at_{k}"] = recall_at(hits, relevant, k)
        columns[f"map_at_{k}"] = average_precision_at(hits, relevant, k)
        columns[f"ndcg_at_{k}"] = ndcg_at(gains, ideal_gains, k)
        columns[f"hit_rate_at_{k}"] = hit_rate_at(hits, k)
    return columns
