"""Measures label by label: the mean over the queries of each label."""

from __future__ import annotations

import numpy as np

from indexmill.tasks.measures.labels import UNLABELLED


def per_label(labels: np.ndarray, values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Label codes that have queries, ascending; queries of each; and the mean of each measure over them, float64 (labels,).

    labels: codes of the queries (queries,); UNLABELLED ones are left out. values: measures (queries,) as of `per_query`; the denominator is
    the label's queries given, so give only those that were judged.
    """
    labelled = labels != UNLABELLED
    codes, place, queries = np.unique(labels[labelled], return_inverse=True, return_counts=True)
    means = {name: np.bincount(place, column[labelled], len(codes)) / queries for name, column in values.items()}
    return codes, queries, means


def mean_of_labels(means: np.ndarray) -> float:
    """The mean over labels of their means: every label counts the same, however many queries it has; NaN without a label."""
    return float(means.mean()) if len(means) else float("nan")
