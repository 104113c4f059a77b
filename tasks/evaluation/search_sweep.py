"""Sweep the search parameters: recall against CPU time, below and above the tuned width."""

from __future__ import annotations

from typing import Any

import numpy as np

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.evaluation.ground_truth import GroundTruth
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.tuning import SearchTrial, TrialRunner

RECALL_K = 10
SWEEP_QUERIES = 500
BATCH_QUERIES = 256
WIDTH_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


def sweep_search_params(searcher: Searcher, run: RetrievalRun, ground_truth: GroundTruth, params: SearchParams) -> list[dict[str, Any]]:
    """Measure recall@10 by ids and CPU time per query at an eighth to four times the tuned width (nprobe or efSearch).

    Uses at most SWEEP_QUERIES queries in batches. The searcher keeps its search parameters.

    Returns:
        One row per width, narrowest first, CPU time in milliseconds; none if the database has fewer than ten items.
    """
    if not len(run.query_ids) or ground_truth.ids.shape[1] < RECALL_K:
        return []
    exact_ids = ground_truth.ids[:SWEEP_QUERIES, :RECALL_K]
    trials = TrialRunner(searcher, run.query_vectors[:SWEEP_QUERIES], exact_ids, RECALL_K, BATCH_QUERIES)
    search_param, max_width = searcher.search_param, searcher.search_param_max
    tuned_width = searcher.search_param_value
    scaled_widths = {int(np.clip(round(tuned_width * factor), 1, max_width)) for factor in WIDTH_FACTORS} if search_param else {1}
    widths = sorted(scaled_widths)
    trials.measure(widths[-1], params.rerank_candidates)  # a warm-up, measured again below
    trials.measured.clear()
    rows = [
        _make_row(trials.measure(width, params.rerank_candidates), is_chosen=not search_param or width == tuned_width) for width in widths
    ]
    searcher.set_search_params(params)
    return rows


def _make_row(trial: SearchTrial, *, is_chosen: bool) -> dict[str, Any]:
    return {
        "nprobe": trial.params.nprobe,
        "ef_search": trial.params.ef_search,
        "rerank_candidates": trial.params.rerank_candidates,
        "recall_at_10": trial.recall,
        "cpu_ms_per_query": trial.cpu_seconds_per_query * 1000,
        "chosen": is_chosen,
    }
