"""Agreement with exact search, query by query: did the index find the true neighbours? Labels play no part here."""

from __future__ import annotations

import faiss
import numpy as np

from indexmill.tasks.evaluation.answers import Answers
from indexmill.tasks.evaluation.truth import Truth
from indexmill.tasks.measures.neighbours import distance_ratio_at, distance_recall_at, overlap_at, share_below

DEPTH = 10  # agreement is told at this depth besides every k


def cuts(ks: tuple[int, ...], database: int) -> list[int]:
    """The depths that agreement is told at: every k and DEPTH that the database can fill."""
    return sorted({k for k in (*ks, DEPTH) if k <= database})


def agreement(given: Answers, truth: Truth, ks: list[int], metric: int) -> dict[str, np.ndarray]:
    """One column a measure, float64 (queries,); NaN in `ann_distance_ratio_at_10` where the nearest lie at distance 0."""
    larger = metric == faiss.METRIC_INNER_PRODUCT
    columns = {f"ann_recall_at_{k}": overlap_at(given.found, truth.ids, k) for k in ks}
    for k in ks:
        columns[f"ann_distance_recall_at_{k}"] = distance_recall_at(given.scores, given.found, truth.scores, k, larger=larger)
    if DEPTH in ks:
        columns[f"ann_distance_ratio_at_{DEPTH}"] = distance_ratio_at(given.scores, given.found, truth.scores, DEPTH, larger=larger)
    return columns


def agreement_figures(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over the queries, the ratio's over those that have one; and the share of queries that found less than half, at DEPTH."""
    figures = {name: float(np.nanmean(column)) for name, column in columns.items() if np.isfinite(column).any()}
    if (recalls := columns.get(f"ann_recall_at_{DEPTH}")) is not None and len(recalls):
        figures[f"ann_share_below_half_at_{DEPTH}"] = share_below(recalls)
    return figures
