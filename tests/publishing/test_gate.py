"""The gate passes good builds and says what is wrong with the others."""

from __future__ import annotations

import pytest

from indexmill.configs.models import GateConfig
from indexmill.storage.metrics_file import MetricComparison, SnapshotDiff
from indexmill.tasks.publishing.gate import GateInput, evaluate_rules, list_failed_rules

RULES = GateConfig(minimum={"map": 0.5}, maximum_drop={"ann_recall_at_10": 0.02})


def candidate(metrics: dict[str, float], diff: SnapshotDiff | None = None, items: int = 90, rejected: int = 10) -> GateInput:
    return GateInput(metrics, items, rejected, diff)


def list_failures(metrics: dict[str, float], live: dict[str, float] | None, rules: GateConfig = RULES) -> tuple[str, ...]:
    return list_failed_rules(evaluate_rules(candidate(metrics), live, rules))


def diff(difference: float | None, p: float | None, churn: float | None = 0.25) -> SnapshotDiff:
    """A comparison of mAP over 40 common queries."""
    compared = MetricComparison(
        queries=40, baseline=0.5, candidate=0.4, difference=difference, low=None, high=None, p_bootstrap=p, p_wilcoxon=None
    )  # fmt: skip
    return SnapshotDiff(snapshot_id="1", metrics={"map": compared}, churn_at_10=churn, common_queries=40, items={}, rejected=0)


def test_good_metrics_pass() -> None:
    """A metric exactly at its minimum and a drop just within the limit: both rules are listed as passed."""
    rules = evaluate_rules(candidate({"map": 0.5, "ann_recall_at_10": 0.97}), {"ann_recall_at_10": 0.98}, RULES)
    assert [(rule.rule, rule.passed) for rule in rules] == [("minimum.map", True), ("maximum_drop.ann_recall_at_10", True)]
    assert list_failed_rules(rules) == ()


def test_each_failed_rule_names_the_value_and_the_limit() -> None:
    """One metric is too low, another dropped too far."""
    assert list_failures({"map": 0.4, "ann_recall_at_10": 0.9}, {"ann_recall_at_10": 0.98}) == (
        "map is 0.4000; it must be at least 0.5",
        "ann_recall_at_10 fell from 0.9800 to 0.9000; the maximum drop is 0.02",
    )


def test_a_rule_about_an_unmeasured_metric_fails() -> None:
    """Otherwise the gate would check nothing and pass everything."""
    assert list_failures({}, {"ann_recall_at_10": 0.98}) == (
        "map was not measured; it must be at least 0.5",
        "ann_recall_at_10 was not measured; the live snapshot has 0.9800",
    )


def test_the_first_build_is_compared_with_nothing() -> None:
    """Rules about drops, significance and churn apply only if there is a live snapshot."""
    rules = GateConfig(minimum={"map": 0.5}, maximum_drop={"map": 0}, significant_drop={"map": 0.05}, maximum_churn=0)
    assert [rule.rule for rule in evaluate_rules(candidate({"map": 0.6}), None, rules)] == ["minimum.map"]


def test_a_metric_can_have_a_maximum() -> None:
    """A median rank, for example, where lower is better."""
    assert list_failures({"text_to_image_median_rank": 9}, None, GateConfig(maximum={"text_to_image_median_rank": 5})) == (
        "text_to_image_median_rank is 9.0000; it must be at most 5",
    )


@pytest.mark.parametrize(
    ("difference", "p", "passed"), [(-0.1, 0.01, False), (-0.1, 0.2, True), (0.1, 0.01, True), (0.0, 1.0, True), (None, None, False)]
)
def test_a_significant_drop_fails(difference: float | None, p: float | None, passed: bool) -> None:
    """A drop with p below the level fails, a rise never does, and a metric that cannot be compared fails."""
    (rule,) = evaluate_rules(candidate({"map": 0.4}, diff(difference, p)), {"map": 0.5}, GateConfig(significant_drop={"map": 0.05}))
    assert rule.passed is passed
    assert list_failed_rules((rule,)) == (() if passed else (rule.message,))


def test_too_few_items_too_many_rejects_and_too_much_churn_fail() -> None:
    """90 items are served and 10 rejected; a quarter of the first results differ."""
    rules = GateConfig(minimum_items=91, maximum_reject_fraction=0.09, maximum_churn=0.2)
    assert list_failed_rules(evaluate_rules(candidate({}, diff(0, 1)), {}, rules)) == (
        "90 items would be served; there must be at least 91",
        "10.00% of the items are rejected; this must be at most 9.00%",
        "churn of the first ten results is 25.00%; it must be at most 20.00%",
    )
    within_limits = GateConfig(minimum_items=90, maximum_reject_fraction=0.1, maximum_churn=0.25)
    assert all(rule.passed for rule in evaluate_rules(candidate({}, diff(0, 1)), {}, within_limits))
    (unmeasured,) = evaluate_rules(candidate({}, diff(0, 1, churn=None)), {}, GateConfig(maximum_churn=0.2))
    assert not unmeasured.passed


def test_a_set_of_queries_that_is_new_has_nothing_to_be_compared_with() -> None:
    """A refused build never becomes live, so otherwise a set with such a rule could never be added. An unmeasured set fails."""
    rules = GateConfig(significant_drop={"rare/map": 0.05}, maximum_drop={"rare/map": 0.1})
    assert evaluate_rules(candidate({"rare/map": 0.4}, diff(0.0, 1.0)), {"map": 0.5}, rules) == ()
    gone = list_failed_rules(evaluate_rules(candidate({}, diff(0.0, 1.0)), {"rare/map": 0.5}, rules))
    assert len(gone) == 2
