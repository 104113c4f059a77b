"""Recall against speed: the same index searched more and less widely than it was tuned to be."""

from __future__ import annotations

from typing import Any

import numpy as np

from indexmill.storage.index_records import SearchSetting
from indexmill.tasks.evaluation.answers import Answers
from indexmill.tasks.evaluation.truth import Truth
from indexmill.tasks.indexes.searcher import Searcher
from indexmill.tasks.indexes.tuning import Trials

DEPTH = 10
QUERIES = 500
FACTORS = (1 / 8, 1 / 4, 1 / 2, 1, 2, 4)


def sweep(searcher: Searcher, given: Answers, truth: Truth, setting: SearchSetting) -> list[dict[str, Any]]:
    """Recall@10 by ids and CPU milliseconds a query in batches, at an eighth to four times the width: one row a width, narrowest first.

    Of up to QUERIES queries; nothing where the database has fewer than ten items. The searcher is left set as it was.
    """
    if not len(given.ids) or truth.ids.shape[1] < DEPTH:
        return []
    trials = Trials(searcher, given.vectors[:QUERIES], truth.ids[:QUERIES, :DEPTH], DEPTH, 256)
    dial, widest = searcher.width
    now = searcher.current_width
    widths = sorted({int(np.clip(round(now * factor), 1, widest)) for factor in FACTORS}) if dial else [1]
    trials(widths[-1], setting.candidates)  # a warm-up, measured again below
    trials.done.clear()
    made = [(width, trials(width, setting.candidates)) for width in widths]
    searcher.widen(nprobe=setting.nprobe, ef_search=setting.ef_search, candidates=setting.candidates)
    return [
        {"nprobe": trial.setting.nprobe, "ef_search": trial.setting.ef_search, "candidates": trial.setting.candidates,
         "recall_at_10": trial.recall, "cpu_ms_a_query": trial.cpu_seconds * 1000, "chosen": not dial or width == now}
        for width, trial in made
    ]  # fmt: skip
