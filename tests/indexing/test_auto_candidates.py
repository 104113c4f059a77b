"""The candidates of `auto`, by the policy written at the head of the module, and the Pareto table."""

from __future__ import annotations

import json

import faiss
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.tasks.indexing.auto_factory import FLAT_MAX_ITEMS, IndexCandidate, propose_candidates, rank_candidates
from indexmill.tasks.indexing.tuning import SearchParams, SearchTrial, TuningResult


def measured(cpu: float, size: float, *, met: bool = True, recall_lower_bound: float = 0.95) -> tuple[IndexCandidate, TuningResult]:
    trial = SearchTrial(SearchParams(nprobe=4), 0.96, recall_lower_bound, cpu)
    return IndexCandidate(f"cpu {cpu} size {size}", True, "exact", 64, 8, 16, size), TuningResult(0.95, met, trial, 3, 1.0)


def test_few_items_are_searched_exactly() -> None:
    (only,) = propose_candidates(FLAT_MAX_ITEMS - 1, 384)
    assert (only.factory, only.rerank, only.resident_bytes) == ("Flat", "none", 4 * 384 + 8)


def test_a_hundred_thousand_sentences() -> None:
    """1.6 √100000 is 506, in steps of 64 lists 512; 256 of 384 directions make 128 pieces: two entries of 64 + 8 bytes, and an id of 8."""
    first = propose_candidates(100_000, 384)[0]
    assert (first.factory, first.spill, first.rerank) == ("PCA256,IVF512,PQ128x4fs", True, "exact")
    assert 2 * (64 + 8) + 8 < first.resident_bytes < 175


def test_a_budget_leaves_out_what_is_larger() -> None:
    """Of four, the two spilled ones take more than 100 bytes an item."""
    assert [one.spill for one in propose_candidates(100_000, 384)] == [True, True, False, False]
    assert [one.spill for one in propose_candidates(100_000, 384, 100 * 100_000)] == [False, False]


def test_a_budget_that_nothing_fits_gives_the_smallest() -> None:
    (only,) = propose_candidates(100_000, 384, 1000)
    assert only.resident_bytes == min(one.resident_bytes for one in propose_candidates(100_000, 384))


@given(st.integers(1, 10**9), st.integers(8, 4096), st.one_of(st.none(), st.integers(0, 10**12)))
def test_every_candidate_is_one_that_faiss_makes(n: int, dim: int, budget: int | None) -> None:
    for one in propose_candidates(n, dim, budget):
        assert one.lists <= n
        assert one.pca_dims is None or (one.pca_dims <= dim and one.pca_dims == 2 * one.subquantizers)
        if dim <= 64:
            assert faiss.index_factory(dim, one.factory).d == dim


def test_the_front_is_what_nothing_beats() -> None:
    """(1, 9) is quickest, (2, 5) smaller, (3, 5) slower and no smaller, (4, 1) smallest; what misses is last and never on it."""
    rows = rank_candidates(
        [measured(3, 5), measured(0.5, 0.5, met=False, recall_lower_bound=0.9), measured(2, 5), measured(4, 1), measured(1, 9)]
    )
    assert [row.tuned.chosen.cpu_seconds_per_query for row in rows] == [1, 2, 3, 4, 0.5]
    assert [row.is_pareto_optimal for row in rows] == [True, True, False, True, False]


def test_what_misses_stands_by_its_bound() -> None:
    rows = rank_candidates([measured(1, 1, met=False, recall_lower_bound=0.7), measured(2, 1, met=False, recall_lower_bound=0.9)])
    assert [row.tuned.chosen.recall_lower_bound for row in rows] == [0.9, 0.7]


def test_a_row_is_plain_json() -> None:
    (row,) = rank_candidates([measured(1e-4, 160)])
    told = json.loads(json.dumps(row.to_json()))
    assert told["nprobe"] == 4
    assert "ef_search" not in told
    assert told["cpu_seconds_per_query"] == pytest.approx(1e-4)
