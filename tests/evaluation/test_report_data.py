"""The example queries and the precision-recall curve of a report."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import IPrec

from indexmill.tasks.evaluation.report_data import choose_example_rows
from indexmill.tasks.metrics.ranking import interpolated_precision


def test_no_query_is_both_best_and_worst() -> None:
    """Of five queries, one of them not judged, two are the best and two the worst, although three were wanted."""
    average_precisions = np.array([0.5, np.nan, 0.1, 0.9, 0.3])
    assert choose_example_rows(average_precisions, 5, 3) == {"examples": [0, 1, 2], "best": [3, 0], "worst": [2, 4]}
    assert choose_example_rows(None, 2, 3) == {"examples": [0, 1], "best": [], "worst": []}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any), st.integers(0, 3))
def test_interpolated_precision_equals_trec_eval(hits: list[bool], missed: int) -> None:
    """iprec_at_recall at eleven levels, with relevant items that were never retrieved."""
    run = [ir_measures.ScoredDoc("q", f"d{rank:02d}", 100.0 - rank) for rank in range(len(hits))]
    qrels = [ir_measures.Qrel("q", f"d{rank:02d}", 1) for rank, hit in enumerate(hits) if hit]
    qrels += [ir_measures.Qrel("q", f"m{number}", 1) for number in range(missed)]
    levels = [IPrec @ (step / 10) for step in range(11)]
    expected = ir_measures.calc_aggregate(levels, qrels, run)
    precisions = interpolated_precision(np.array([hits]), np.array([len(qrels)]))[0]
    assert precisions == pytest.approx([expected[level] for level in levels], abs=1e-6)
