"""The gate lets good figures through and says what is wrong with others."""

from __future__ import annotations

from configs.models import GateConfig
from tasks.checks.gate import objections

RULES = GateConfig(minimum={"map": 0.5}, maximum_drop={"ann_recall_at_10": 0.02})


def test_good_figures_pass() -> None:
    """At the minimum exactly, and with a drop just inside what is allowed."""
    assert objections({"map": 0.5, "ann_recall_at_10": 0.97}, {"ann_recall_at_10": 0.98}, RULES) == []


def test_each_broken_rule_is_a_sentence_with_both_numbers() -> None:
    """Too low, and fallen too far."""
    assert objections({"map": 0.4, "ann_recall_at_10": 0.9}, {"ann_recall_at_10": 0.98}, RULES) == [
        "map is 0.4000, and must be at least 0.5",
        "ann_recall_at_10 fell from 0.9800 to 0.9000, by more than 0.02",
    ]


def test_a_measure_that_was_not_taken_breaks_its_rule() -> None:
    """A gate that watches nothing would let everything through."""
    assert objections({}, {"ann_recall_at_10": 0.98}, RULES) == [
        "map was not measured, and must be at least 0.5",
        "ann_recall_at_10 was not measured, and was 0.9800 in the live snapshot",
    ]


def test_the_first_snapshot_can_fall_from_nothing() -> None:
    """Drops count against a live snapshot only."""
    assert objections({"map": 0.6, "ann_recall_at_10": 0.1}, None, RULES) == []
