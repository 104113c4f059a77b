"""Twelve builds with insertions, replacements and deletions while the data drift."""

from __future__ import annotations

import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage.root import Root
from tests.indexing.runbook import DRIFTING, play

CONFIG = IndexConfig.model_validate(
    {"factory": "IVF16,Flat", "shard_bytes": 1500 * (4 * 16 + 8), "drift": {"sample": 3000, "queries": 300}}
)


@pytest.mark.slow
def test_every_incremental_build_is_as_good_as_one_from_scratch(root: Root) -> None:
    """Ids and exact results are equal, recall@10 is within 0.01, unchanged shards are reused, and drift causes
    retraining.
    """
    results = list(play(root, CONFIG, items=4000, dim=16, clusters=40, nprobe=4, queries=300))
    assert len(results) == 12
    for number, result in enumerate(results):
        assert result.ids_equal, number
        assert result.exact_equal, number
        assert result.recall >= result.fresh_recall - 0.01, (number, result)
    retrained = {number for number, result in enumerate(results) if result.reason.startswith("retrained")}
    assert DRIFTING.start in retrained
    assert retrained <= set(DRIFTING)
    quiet = [results[number] for number in (1, 2, 10, 11)]  # insertions only: one shard is written
    assert [(result.built, result.updated) for result in quiet] == [(0, 1)] * 4
    assert min(result.fresh_recall for result in results) < 0.999  # so few lists are visited that recall can differ
