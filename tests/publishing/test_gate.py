"""The gate lets good builds through and says what is wrong with others."""

from __future__ import annotations

import pytest

from indexmill.configs.models import GateConfig
from indexmill.storage.metrics_file import MetricComparison, SnapshotDiff
from indexmill.tasks.publishing.gate import GateInput, evaluate_rules, failed_rules

RULES = GateConfig(minimum={"map": 0.5}, maximum_drop={"ann_recall_at_10": 0.02})


def candidate(metrics: dict[str, float], diff: SnapshotDiff | None = None, items: int = 90, rejected: int = 10) -> GateInput:
    return GateInput(metrics, items, rejected, diff)


def said(metrics: dict[str, float], live: dict[str, float] | None, rules: GateConfig = RULES) -> tuple[str, ...]:
    return failed_rules(evaluate_rules(candidate(metrics), live, rules))


def diff(difference: float | None, p: float | None, churn: float | None = 0.25) -> SnapshotDiff:
    """A comparison of mAP over 40 common queries."""
    compared = MetricComparison(
        queries=40, baseline=0.5, candidate=0.4, difference=difference, low=None, high=None, p_bootstrap=p, p_wilcoxon=None
    )  # fmt: skip
    return SnapshotDiff(snapshot_id="1", metrics={"map": compared}, churn_at_10=churn, common_queries=40, items={}, rejected=0)


def test_good_figures_pass() -> None:
    """At the minimum exactly, and with a drop just inside what is allowed: both rules are told, and both held."""
    rules = evaluate_rules(candidate({"map": 0.5, "ann_recall_at_10": 0.97}), {"ann_recall_at_10": 0.98}, RULES)
    assert [(rule.rule, rule.passed) for rule in rules] == [("minimum.map", True), ("maximum_drop.ann_recall_at_10", True)]
    assert failed_rules(rules) == ()


def test_each_broken_rule_is_a_sentence_with_both_numbers() -> None:
    """Too low, and fallen too far."""
    assert said({"map": 0.4, "ann_recall_at_10": 0.9}, {"ann_recall_at_10": 0.98}) == (
        "map is 0.4000, and must be at least 0.5",
        "ann_recall_at_10 fell from 0.9800 to 0.9000, by more than 0.02",
    )


def test_a_measure_that_was_not_taken_breaks_its_rule() -> None:
    """A gate that watches nothing would let everything through."""
    assert said({}, {"ann_recall_at_10": 0.98}) == (
        "map was not measured, and must be at least 0.5",
        "ann_recall_at_10 was not measured, and was 0.9800 in the live snapshot",
    )


def test_the_first_snapshot_can_fall_from_nothing() -> None:
    """Drops, significance and churn count against a live snapshot only."""
    rules = GateConfig(minimum={"map": 0.5}, maximum_drop={"map": 0}, significant_drop={"map": 0.05}, maximum_churn=0)
    assert [rule.rule for rule in evaluate_rules(candidate({"map": 0.6}), None, rules)] == ["minimum.map"]


def test_a_measure_may_have_a_largest_value() -> None:
    """A median rank, say, where less is better."""
    assert said({"text_to_image_median_rank": 9}, None, GateConfig(maximum={"text_to_image_median_rank": 5})) == (
        "text_to_image_median_rank is 9.0000, and must be at most 5",
    )


@pytest.mark.parametrize(
    ("difference", "p", "passed"), [(-0.1, 0.01, False), (-0.1, 0.2, True), (0.1, 0.01, True), (0.0, 1.0, True), (None, None, False)]
)
def test_a_drop_counts_when_it_is_significant(difference: float | None, p: float | None, passed: bool) -> None:
    """A fall with p below the level; a rise never; what could not be compared breaks the rule."""
    (rule,) = evaluate_rules(candidate({"map": 0.4}, diff(difference, p)), {"map": 0.5}, GateConfig(significant_drop={"map": 0.05}))
    assert rule.passed is passed
    assert failed_rules((rule,)) == (() if passed else (rule.message,))


def test_too_few_items_too_many_rejects_and_too_much_churn() -> None:
    """90 items served and 10 rejected; a quarter of the neighbours are others."""
    rules = GateConfig(minimum_items=91, maximum_reject_fraction=0.09, maximum_churn=0.2)
    assert failed_rules(evaluate_rules(candidate({}, diff(0, 1)), {}, rules)) == (
        "90 items are served, and must be at least 91",
        "10.00% of the items are rejected, at most 9.00% may be",
        "churn of the first ten results is 25.00%, at most 20.00%",
    )
    inside = GateConfig(minimum_items=90, maximum_reject_fraction=0.1, maximum_churn=0.25)
    assert all(rule.passed for rule in evaluate_rules(candidate({}, diff(0, 1)), {}, inside))
    (blind,) = evaluate_rules(candidate({}, diff(0, 1, churn=None)), {}, GateConfig(maximum_churn=0.2))
    assert not blind.passed
