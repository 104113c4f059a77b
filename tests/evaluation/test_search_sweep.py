"""The sweep of the search parameters."""

from __future__ import annotations

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.evaluation.search_sweep import sweep_search_params
from tests.evaluation.small_index import SmallIndex


def test_recall_rises_with_nprobe_and_the_searcher_keeps_its_parameters(small: SmallIndex) -> None:
    """From one list to all eight; the row of the tuned parameters is marked as chosen."""
    rows = sweep_search_params(small.searcher, small.run, small.compute_ground_truth(), SearchParams(nprobe=2))
    assert [row["nprobe"] for row in rows] == [1, 2, 4, 8]
    assert [row["nprobe"] for row in rows if row["chosen"]] == [2]
    recalls = [row["recall_at_10"] for row in rows]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1
    assert small.searcher.search_param_value == 2
