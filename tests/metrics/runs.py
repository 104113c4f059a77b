"""Random runs with many tied scores, and our metrics of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexmill.tasks.metrics.exact_search import select_top_k
from indexmill.tasks.metrics.qrels import Qrels
from indexmill.tasks.metrics.ranking import compute_query_metrics

KS = (1, 3, 10)


@dataclass(frozen=True)
class Run:
    """20 queries over 60 items: the ids, the ranked scores and ids, the qrels, and the gains of all pairs."""

    ids: np.ndarray
    scores: np.ndarray
    retrieved: np.ndarray
    qrels: Qrels
    gains: np.ndarray


def make_run(seed: int, depth: int = 30) -> Run:
    """Draw scores of 8 values only (so many ties), and 1 to 9 judged items of gain 0 to 3 per query."""
    random = np.random.default_rng(seed)
    ids = np.sort(random.permutation(10_000)[:60]) + 1
    scores = random.integers(0, 8, (20, 60)).astype(np.float32) / 8
    gains = np.zeros((20, 60))
    for row in gains:
        row[random.permutation(60)[: random.integers(1, 10)]] = random.integers(0, 4)
        row[random.integers(60)] = 2
    rows, columns = np.nonzero(gains)
    qrels = Qrels(20, rows, ids[columns], gains[rows, columns])
    ranked, retrieved = select_top_k(scores, np.broadcast_to(ids, scores.shape), depth, higher_is_better=True)
    return Run(ids, ranked, retrieved, qrels, gains)


def compute_metrics(run: Run) -> dict[str, np.ndarray]:
    gains = run.qrels.look_up_gains(run.retrieved)
    return compute_query_metrics(gains > 0, run.qrels.relevant, KS, gains, run.qrels.ideal_gains(max(KS)))
