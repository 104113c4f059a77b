"""Twelve nights of insertions, replacements and deletions while the data drift: every night as good as a build from nothing."""

from __future__ import annotations

from indexmill.configs.models import IndexConfig
from indexmill.storage.root import Root
from tests.indexing.runbook import DRIFTING, play

CONFIG = IndexConfig.model_validate(
    {"factory": "IVF16,Flat", "shard_bytes": 1500 * (4 * 16 + 8), "drift": {"sample": 3000, "queries": 300}}
)


def test_every_night_is_as_good_as_a_build_from_nothing(root: Root) -> None:
    """Ids and exact answers are equal, recall@10 is within 0.01, untouched shards stay, and training is redone when drift asks for it."""
    nights = list(play(root, CONFIG, items=4000, dim=16, clusters=40, nprobe=4, queries=300))
    assert len(nights) == 12
    for number, night in enumerate(nights):
        assert night.ids_equal, number
        assert night.exact_equal, number
        assert night.recall >= night.fresh_recall - 0.01, (number, night)
    trained_anew = {number for number, night in enumerate(nights) if night.reason.startswith("trained anew")}
    assert DRIFTING.start in trained_anew
    assert trained_anew <= set(DRIFTING)
    quiet = [nights[number] for number in (1, 2, 10, 11)]  # nothing but insertions: the open shard alone is written
    assert [(night.built, night.updated) for night in quiet] == [(0, 1)] * 4
    assert min(night.fresh_recall for night in nights) < 0.999  # so few lists are looked at that recall says something
