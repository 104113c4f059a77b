"""Sweep the search parameters: recall against CPU time, below and above the tuned width."""

from __future__ import annotations

from typing import Any

import numpy as np

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.evaluation.retrieval import GroundTruth, RetrievalRun
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.tuning import TrialRunner

RECALL_K = 10
SWEEP_QUERIES = 500
WIDTH_FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


def sweep_search_params(searcher: Searcher, run: RetrievalRun, ground_truth: GroundTruth, params: SearchParams) -> list[dict[str, Any]]:
    """Recall@10 by ids and CPU milliseconds a query in batches, at an eighth to four times the width: one row a width, narrowest first.

    Of up to QUERIES queries; nothing where the database has fewer than ten items. The searcher is left set as it was.
    """
    if not len(run.ids) or ground_truth.ids.shape[1] < RECALL_K:
        return []
    trials = TrialRunner(searcher, run.vectors[:SWEEP_QUERIES], ground_truth.ids[:SWEEP_QUERIES, :RECALL_K], RECALL_K, 256)
    search_param, widest = searcher.search_param, searcher.search_param_max
    now = searcher.search_param_value
    widths = sorted({int(np.clip(round(now * factor), 1, widest)) for factor in WIDTH_FACTORS}) if search_param else [1]
    trials.measure(widths[-1], params.rerank_candidates)  # a warm-up, measured again below
    trials.measured.clear()
    made = [(width, trials.measure(width, params.rerank_candidates)) for width in widths]
    searcher.set_search_params(params)
    return [
        {"nprobe": trial.params.nprobe, "ef_search": trial.params.ef_search, "rerank_candidates": trial.params.rerank_candidates,
         "recall_at_10": trial.recall, "cpu_ms_per_query": trial.cpu_seconds_per_query * 1000, "chosen": not search_param or width == now}
        for width, trial in made
    ]  # fmt: skip
