"""Random runs that many scores tie in, and our measures of them."""

from __future__ import annotations

import numpy as np

from indexmill.tasks.indexing.searcher import select_top_k
from indexmill.tasks.metrics.qrels import Qrels
from indexmill.tasks.metrics.ranking import compute_query_metrics

KS = (1, 3, 10)


def a_run(seed: int, depth: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray, Qrels, np.ndarray]:
    """20 queries over 60 items, scores of 8 values only (so many ties), each query with 1 to 9 judged items of gain 0 to 3."""
    random = np.random.default_rng(seed)
    ids = np.sort(random.permutation(10_000)[:60]) + 1
    scores = random.integers(0, 8, (20, 60)).astype(np.float32) / 8
    gains = np.zeros((20, 60))
    for row in gains:
        row[random.permutation(60)[: random.integers(1, 10)]] = random.integers(0, 4)
        row[random.integers(60)] = 2
    rows, columns = np.nonzero(gains)
    judged = Qrels(20, rows, ids[columns], gains[rows, columns])
    ranked, found = select_top_k(scores, np.broadcast_to(ids, scores.shape), depth, higher_is_better=True)
    return ids, ranked, found, judged, gains


def ours(found: np.ndarray, judged: Qrels) -> dict[str, np.ndarray]:
    gains = judged.gains(found)
    return compute_query_metrics(gains > 0, judged.relevant, KS, gains, judged.ideal_gains(max(KS)))
