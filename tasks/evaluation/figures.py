"""Means over queries and how sure they are."""

from __future__ import annotations

import numpy as np

from indexmill.tasks.evaluation.agreement import agreement_figures
from indexmill.tasks.evaluation.judging import Judged
from indexmill.tasks.measures.confidence import intervals
from indexmill.tasks.measures.per_label import mean_of_labels

Bounds = dict[str, tuple[float, float]]


def means(judged: Judged, agreed: dict[str, np.ndarray]) -> tuple[dict[str, float], Bounds]:
    """The mean of every measure, and the 95 % interval of those that every query has a value of.

    Relevance is over the judged queries, agreement over all. `map_by_label` is the mean over labels of their mAP.
    """
    metrics = agreement_figures(agreed)
    bounds: Bounds = {}
    for columns in (judged.columns, {name: column for name, column in agreed.items() if np.isfinite(column).all()}):
        if columns and len(next(iter(columns.values()))):
            mean, low, high = (ends.tolist() for ends in intervals(np.stack(list(columns.values()), axis=1)))
            metrics |= dict(zip(columns, mean, strict=True))
            bounds |= dict(zip(columns, zip(low, high, strict=True), strict=True))
    if judged.by == "label":
        labels = judged.labels[judged.judged]
        metrics["map_by_label"] = mean_of_labels(np.array([judged.columns["map"][labels == code].mean() for code in np.unique(labels)]))
    return metrics, bounds
