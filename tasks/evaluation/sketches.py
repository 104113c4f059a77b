"""What the report draws besides figures: queries with their results, labels, confusions, the precision-recall curve."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.answers import Answers
from indexmill.tasks.evaluation.examples import chosen_rows, shown
from indexmill.tasks.evaluation.judging import Judge, Judged
from indexmill.tasks.measures.confusion import largest_confusions
from indexmill.tasks.measures.precision_recall import LEVELS, interpolated_precision

LABELS_SHOWN = 40
CONFUSED_AT = 10


def sketches(
    root: Root, embeddings: EmbeddingSet, given: Answers, judge: Judge, judged: Judged, by_label: list[dict[str, Any]], examples: int
) -> dict[str, Any]:
    """JSON-simple. examples, best, worst: each `query`, `results`, `figure` (average precision, None where not judged).

    by_label: the LABELS_SHOWN labels with the most queries. confusion: the largest, by name. precision_recall: the mean interpolated
    precision at eleven levels of recall; no level where nothing was judged.
    """
    figures = None
    if judged.by:
        figures = np.full(len(given.ids), np.nan)
        figures[judged.judged] = judged.columns["map"]
    names = judge.labels.names
    pairs = [(judged.labels[judged.judged], judge.labels.of(judged.found))] if judged.by == "label" else []
    confused = largest_confusions(pairs, CONFUSED_AT)
    curve = interpolated_precision(judged.hits, judged.relevant).mean(axis=0).tolist() if judged.by else []
    return {
        **shown(root, embeddings, given, chosen_rows(figures, len(given.ids), examples), figures),
        "by_label": sorted(by_label, key=lambda row: (-row["queries"], row["label"]))[:LABELS_SHOWN],
        "confusion": [asdict(one) | {"query": names[one.query], "found": names[one.found]} for one in confused],
        "precision_recall": {"recall": LEVELS.tolist() if curve else [], "precision": curve},
    }
