"""The candidates of `index.factory: auto`, and their Pareto comparison."""

from __future__ import annotations

import json

import faiss
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.auto_factory import FLAT_MAX_ITEMS, IndexCandidate, propose_candidates, rank_candidates
from indexmill.tasks.indexing.tuning import SearchTrial, TuningResult


def make_result(cpu: float, size: float, *, met: bool = True, recall_lower_bound: float = 0.95) -> tuple[IndexCandidate, TuningResult]:
    trial = SearchTrial(SearchParams(nprobe=4), 0.96, recall_lower_bound, cpu)
    return IndexCandidate(f"cpu {cpu} size {size}", True, "exact", 64, 8, 16, size), TuningResult(0.95, met, trial, 3, 1.0)


def test_few_items_are_searched_exactly() -> None:
    (only,) = propose_candidates(FLAT_MAX_ITEMS - 1, 384)
    assert (only.factory, only.rerank, only.resident_bytes) == ("Flat", "none", 4 * 384 + 8)


def test_a_hundred_thousand_sentences_get_spilled_fast_scan_codes() -> None:
    """1.6 √100000 is 506, so 512 lists.

    256 of 384 dimensions make 128 subquantizers: two entries of 64 + 8 bytes, and an id of 8.
    """
    first = propose_candidates(100_000, 384)[0]
    assert (first.factory, first.spill, first.rerank) == ("PCA256,IVF512,PQ128x4fs", True, "exact")
    assert 2 * (64 + 8) + 8 < first.resident_bytes < 175


def test_a_memory_budget_excludes_larger_candidates() -> None:
    """Of four candidates, the two spilled ones take more than 100 bytes per item."""
    assert [candidate.spill for candidate in propose_candidates(100_000, 384)] == [True, True, False, False]
    assert [candidate.spill for candidate in propose_candidates(100_000, 384, 100 * 100_000)] == [False, False]


def test_a_budget_below_all_candidates_gives_the_smallest() -> None:
    (only,) = propose_candidates(100_000, 384, 1000)
    assert only.resident_bytes == min(candidate.resident_bytes for candidate in propose_candidates(100_000, 384))


@given(st.integers(1, 10**9), st.integers(8, 4096), st.one_of(st.none(), st.integers(0, 10**12)))
def test_faiss_accepts_every_candidate(n: int, dim: int, budget: int | None) -> None:
    for candidate in propose_candidates(n, dim, budget):
        assert candidate.lists <= n
        assert candidate.pca_dims is None or (candidate.pca_dims <= dim and candidate.pca_dims == 2 * candidate.subquantizers)
        if dim <= 64:
            assert faiss.index_factory(dim, candidate.factory).d == dim


def test_pareto_optimal_rows_are_dominated_by_none() -> None:
    """(1, 9) is fastest, (2, 5) smaller, (3, 5) slower and no smaller, (4, 1) smallest.

    A row that misses the target comes last.
    """
    rows = rank_candidates(
        [
            make_result(3, 5),
            make_result(0.5, 0.5, met=False, recall_lower_bound=0.9),
            make_result(2, 5),
            make_result(4, 1),
            make_result(1, 9),
        ]
    )
    assert [row.tuned.chosen.cpu_seconds_per_query for row in rows] == [1, 2, 3, 4, 0.5]
    assert [row.is_pareto_optimal for row in rows] == [True, True, False, True, False]


def test_rows_that_miss_the_target_are_ordered_by_their_lower_bound() -> None:
    rows = rank_candidates([make_result(1, 1, met=False, recall_lower_bound=0.7), make_result(2, 1, met=False, recall_lower_bound=0.9)])
    assert [row.tuned.chosen.recall_lower_bound for row in rows] == [0.9, 0.7]


def test_a_row_is_plain_json() -> None:
    (row,) = rank_candidates([make_result(1e-4, 160)])
    row_json = json.loads(json.dumps(row.to_json()))
    assert row_json["nprobe"] == 4
    assert "ef_search" not in row_json
    assert row_json["cpu_seconds_per_query"] == pytest.approx(1e-4)
