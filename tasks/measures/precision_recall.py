"""Precision against recall: how much of what was found is relevant when so much of the relevant was found."""

from __future__ import annotations

import numpy as np

LEVELS = np.arange(11) / 10


def interpolated_precision(hits: np.ndarray, relevant: np.ndarray, levels: np.ndarray = LEVELS) -> np.ndarray:
    """Interpolated precision at each recall level, float64 (queries, levels): the best P@r at any rank r where recall is at the level.

    hits, relevant: as in `relevance`. A level that the ranking never reaches is 0. trec_eval's iprec_at_recall, whose cut-off is the
    rank that holds floor(level * relevant + 0.9) relevant items.
    """
    found = np.cumsum(hits, axis=1)
    precision = found / np.arange(1, hits.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    needed = np.floor(levels * relevant[:, None] + 0.9)
    figures = np.zeros(needed.shape)
    for column in range(needed.shape[1]):
        reached = found >= needed[:, column : column + 1]
        first = reached.argmax(axis=1)
        figures[:, column] = np.where(reached.any(axis=1), np.take_along_axis(best, first[:, None], axis=1)[:, 0], 0)
    return figures
