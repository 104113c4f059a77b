"""All relevance measures of a set of queries, under the names that MTEB uses."""

from __future__ import annotations

import numpy as np

from indexmill.tasks.measures.relevance import (
    average_precision,
    average_precision_at,
    hit_rate_at,
    ideal_hits,
    ndcg_at,
    precision_at,
    r_precision,
    recall_at,
    reciprocal_rank,
)

PLACES_AT_ONCE = 1 << 22


def per_query(
    hits: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...], gains: np.ndarray | None = None, ideal: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """One column a measure, float64 (queries,): `map` and `mrr` over the depth given, `r_precision`, and five measures at every k.

    hits, relevant: as in `relevance`. gains, ideal: as in `ndcg_at`; by default every relevant item is worth 1. Works on PLACES_AT_ONCE
    places of the rankings together.
    """
    step = max(1, PLACES_AT_ONCE // max(hits.shape[1], 1))
    blocks = [slice(start, start + step) for start in range(0, max(len(hits), 1), step)]
    parts = [_measured(hits[at], relevant[at], ks, _of(gains, at), _of(ideal, at)) for at in blocks]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _of(rows: np.ndarray | None, at: slice) -> np.ndarray | None:
    return None if rows is None else rows[at]


def _measured(
    hits: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...], gains: np.ndarray | None, ideal: np.ndarray | None
) -> dict[str, np.ndarray]:
    worth = hits if gains is None else gains
    best = ideal_hits(relevant, max(ks, default=1)) if ideal is None else ideal
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
