"""Tuning of search parameters, and the lower bound of recall."""

from __future__ import annotations

import math

import faiss
import numpy as np
import pytest

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.reranking import make_store
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.soar import fill_index, train_soar
from indexmill.tasks.indexing.tuning import TrialRunner, _bisect_search_param, lower_bound, tune_search
from indexmill.tasks.metrics.neighbors import ann_recall_at

DIM, COUNT = 16, 1500


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES, IDS = unit(COUNT, 0), unit(300, 1), np.arange(COUNT) * 3 + 5
EXACT = IDS[np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :10]]


def make_searcher(family: str) -> Searcher:
    if family == "spill":
        index = fill_index(train_soar(VECTORS, 32, 4, "cosine"), [(IDS, VECTORS)])
        return Searcher([index], "cosine", SearchParams(spill=True), stores=[make_store(IDS, VECTORS, "cosine")])
    index = faiss.index_factory(DIM, family, faiss.METRIC_INNER_PRODUCT)
    index = index if "IVF" in family else faiss.IndexIDMap2(index)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    return Searcher([index], "cosine")


def test_the_lower_bound_is_the_formula() -> None:
    """Recalls 1 and 0.5, twice each, by hand: mean 0.75, standard deviation √(4 · 0.25² / 3), standard error half of
    it.
    """
    deviation = math.sqrt(4 * 0.25**2 / 3)
    assert lower_bound(np.array([1, 0.5, 1, 0.5])) == pytest.approx(0.75 - 1.645 * deviation / 2)
    assert lower_bound(np.ones(100)) == pytest.approx(0.05**0.01)
    assert lower_bound(np.ones(1)) == 0


def test_the_lower_bound_holds_in_about_95_of_100_samples() -> None:
    """Samples of a distribution with mean 0.9."""
    random = np.random.default_rng(0)
    is_below = [lower_bound(random.binomial(10, 0.9, 400) / 10) <= 0.9 for _ in range(1000)]
    assert 0.92 <= np.mean(is_below) <= 0.98


@pytest.mark.parametrize("family", ["IVF32,Flat", "HNSW8", "spill", "IVF32,SQ8"])
@pytest.mark.parametrize("target", [0.8, 0.95])
def test_the_result_is_what_the_searcher_then_does(family: str, target: float) -> None:
    tuned_searcher = make_searcher(family)
    tuned = tune_search(tuned_searcher, QUERIES, EXACT, target)
    recalls = ann_recall_at(tuned_searcher.search(QUERIES, 10)[1], EXACT, 10)
    assert tuned.met
    assert tuned.chosen.recall == pytest.approx(recalls.mean())
    assert target <= tuned.chosen.recall_lower_bound == lower_bound(recalls) <= tuned.chosen.recall


def test_bisection_finds_the_smallest_nprobe_that_reaches_the_target() -> None:
    """Compared with a trial of every nprobe."""
    ivf = make_searcher("IVF32,Flat")
    nprobe_found = _bisect_search_param(TrialRunner(ivf, QUERIES, EXACT, 10, 256), 0.9, None)
    bounds = []
    for nprobe in range(1, 33):
        ivf.set_search_params(SearchParams(nprobe=nprobe))
        bounds.append(lower_bound(ann_recall_at(ivf.search(QUERIES, 10)[1], EXACT, 10)))
    assert nprobe_found == 1 + next(i for i, recall_lower_bound in enumerate(bounds) if recall_lower_bound >= 0.9)


def test_no_trial_that_reaches_the_target_is_faster() -> None:
    trials = TrialRunner(make_searcher("spill"), QUERIES, EXACT, 10, 256)
    for nprobe, rerank_candidates in ((2, 20), (32, 300), (32, 100), (16, 300)):
        trials.measure(nprobe, rerank_candidates)
    chosen = trials.finish(0.5).chosen
    assert chosen.cpu_seconds_per_query == min(
        trial.cpu_seconds_per_query for trial in trials.measured.values() if trial.recall_lower_bound >= 0.5
    )


def test_an_unreachable_target_is_reported_with_the_closest_result() -> None:
    """Codes of 4 dimensions each and no re-ranking: the widest search is not enough."""
    index = faiss.index_factory(DIM, "IVF8,PQ4x4", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    tuned = tune_search(Searcher([index], "cosine"), QUERIES, EXACT, 0.95)
    assert not tuned.met
    assert tuned.chosen.params.nprobe is not None
    assert "cannot be reached; the closest is nprobe" in str(tuned)


def test_flat_has_nothing_to_tune() -> None:
    tuned = tune_search(make_searcher("Flat"), QUERIES, EXACT, 0.99)
    assert tuned.met
    assert tuned.trials == 1
    assert tuned.chosen.params == SearchParams()
