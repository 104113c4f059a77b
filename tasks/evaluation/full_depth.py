"""Average precision when the whole database is ranked exactly: what the embedding is worth, whatever the index finds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.answers import Answers
from indexmill.tasks.evaluation.judging import Judge, Judged
from indexmill.tasks.evaluation.laid_out import laid_out
from indexmill.tasks.measures.full_depth import full_average_precision
from indexmill.tasks.progress import track

MOST_SCORES = 200_000_000  # queries times database: about twenty seconds on two cores
MOST_QUERIES = 1000


class FullDepth(NamedTuple):
    """metrics: `map_full_depth`, or nothing; queries: how many it rests on."""

    metrics: dict[str, float]
    queries: int


def full_depth(root: Root, judge: Judge, given: Answers, judged: Judged, config: IndexConfig) -> FullDepth:
    """Over a seeded sample of the judged queries, as large as MOST_SCORES and MOST_QUERIES allow.

    By label and by inner product, so there is none for the metric l2 or for judgements by pairs.
    """
    held, rows = judge.held, np.flatnonzero(judged.judged)
    count = min(len(rows), MOST_QUERIES, MOST_SCORES // max(held.database, 1))
    if judged.by != "label" or config.metric == "l2" or not count:
        return FullDepth({}, 0)
    chosen = np.sort(np.random.default_rng(config.seed).permutation(rows)[:count])
    with track("ranking everything", 1) as advance, root.scratch.staging() as staging:
        ids, mapped = laid_out(root, held, "database", held.database, staging / "database.npy")
        own = judge.own_pairs(given.ids[chosen], ids)
        figures = full_average_precision(given.vectors[chosen], judged.labels[chosen], mapped, judge.labels.of(ids), own)
        advance(1)
    return FullDepth({"map_full_depth": float(np.nanmean(figures))}, count)
