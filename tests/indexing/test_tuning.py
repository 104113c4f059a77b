"""Tuning: the bound by hand, the setting met and the quickest of what meets it, and a target that cannot be met."""

from __future__ import annotations

import math

import faiss
import numpy as np
import pytest

from indexmill.tasks.indexing.reranking import store
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.soar import fill_index, train_soar
from indexmill.tasks.indexing.tuning import SearchParams, TrialRunner, _bisect_width, lower_bound, tune
from indexmill.tasks.metrics.neighbors import ann_recall_at

DIM, COUNT = 16, 1500


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES, IDS = unit(COUNT, 0), unit(300, 1), np.arange(COUNT) * 3 + 5
EXACT = IDS[np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :10]]


def searcher(family: str) -> Searcher:
    if family == "spill":
        index = fill_index(train_soar(VECTORS, 32, 4, "cosine"), [(IDS, VECTORS)])
        return Searcher([index], "cosine", stores=[store(IDS, VECTORS, "cosine")], spill=True)
    index = faiss.index_factory(DIM, family, faiss.METRIC_INNER_PRODUCT)
    index = index if "IVF" in family else faiss.IndexIDMap2(index)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    return Searcher([index], "cosine")


def test_the_bound_by_hand() -> None:
    """Recalls 1 and 0.5, twice each: mean 0.75, standard deviation √(4 · 0.25² / 3), standard error half of it."""
    deviation = math.sqrt(4 * 0.25**2 / 3)
    assert lower_bound(np.array([1, 0.5, 1, 0.5])) == pytest.approx(0.75 - 1.645 * deviation / 2)
    assert lower_bound(np.ones(100)) == pytest.approx(0.05**0.01)
    assert lower_bound(np.ones(1)) == 0


def test_the_bound_holds_in_about_95_of_100_samples() -> None:
    """Drawn from a distribution whose mean is known: 0.9."""
    random = np.random.default_rng(0)
    held = [lower_bound(random.binomial(10, 0.9, 400) / 10) <= 0.9 for _ in range(1000)]
    assert 0.92 <= np.mean(held) <= 0.98


@pytest.mark.parametrize("family", ["IVF32,Flat", "HNSW8", "spill", "IVF32,SQ8"])
@pytest.mark.parametrize("target", [0.8, 0.95])
def test_what_is_told_is_what_the_searcher_then_does(family: str, target: float) -> None:
    tuned_searcher = searcher(family)
    tuned = tune(tuned_searcher, QUERIES, EXACT, target)
    recalls = ann_recall_at(tuned_searcher.search(QUERIES, 10)[1], EXACT, 10)
    assert tuned.met
    assert tuned.chosen.recall == pytest.approx(recalls.mean())
    assert target <= tuned.chosen.recall_lower_bound == lower_bound(recalls) <= tuned.chosen.recall


def test_the_width_is_the_least_that_meets_the_target() -> None:
    """Against trying every nprobe."""
    ivf = searcher("IVF32,Flat")
    width = _bisect_width(TrialRunner(ivf, QUERIES, EXACT, 10, 256), 0.9, None)
    bounds = []
    for nprobe in range(1, 33):
        ivf.set_search_params(nprobe=nprobe)
        bounds.append(lower_bound(ann_recall_at(ivf.search(QUERIES, 10)[1], EXACT, 10)))
    assert width == 1 + next(i for i, recall_lower_bound in enumerate(bounds) if recall_lower_bound >= 0.9)


def test_no_trial_that_meets_the_target_is_quicker() -> None:
    trials = TrialRunner(searcher("spill"), QUERIES, EXACT, 10, 256)
    for width, rerank_candidates in ((2, 20), (32, 300), (32, 100), (16, 300)):
        trials(width, rerank_candidates)
    chosen = trials.tuned(0.5).chosen
    assert chosen.cpu_seconds_per_query == min(
        trial.cpu_seconds_per_query for trial in trials.measured.values() if trial.recall_lower_bound >= 0.5
    )


def test_a_target_that_cannot_be_met_is_said_with_the_nearest() -> None:
    """Codes of 4 dimensions each and no re-ranking: the widest search is not enough."""
    index = faiss.index_factory(DIM, "IVF8,PQ4x4", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    tuned = tune(Searcher([index], "cosine"), QUERIES, EXACT, 0.95)
    assert not tuned.met
    assert tuned.chosen.params.nprobe is not None
    assert "cannot be met; the nearest is" in str(tuned)


def test_flat_has_nothing_to_tune() -> None:
    tuned = tune(searcher("Flat"), QUERIES, EXACT, 0.99)
    assert tuned.met
    assert tuned.trials == 1
    assert tuned.chosen.params == SearchParams()
