"""Evaluate the rules of `publish.gate`: the build against fixed limits and against the live snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from indexmill.configs.models import GateConfig
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import GateRule, SnapshotDiff
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.evaluation.snapshot_diff import SnapshotTables, compute_snapshot_diff
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards


class GateVerdict(NamedTuple):
    """Every rule that was evaluated, messages of those that failed, and the difference from the live snapshot, if there is one."""

    rules: tuple[GateRule, ...]
    failed_rules: tuple[str, ...]
    diff: SnapshotDiff | None


@dataclass(frozen=True)
class GateInput:
    """What the rules are evaluated on.

    Attributes:
        metrics: The build's metrics.
        items: Items that would be served.
        rejected: Items that would not.
        diff: Difference from the live snapshot; None if there is none.
    """

    metrics: Mapping[str, float]
    items: int
    rejected: int
    diff: SnapshotDiff | None


def evaluate_gate(build: BuildCandidate, served: ServedShards, snapshot_id: str) -> GateVerdict:
    """Evaluate the rules of `publish.gate`. A build that equals the live snapshot is compared with nothing."""
    live = build.live if build.live and build.live.snapshot_id != snapshot_id else None
    diff = _compare_with_live(build, live) if live else None
    gate_input = GateInput(build.evaluation.metrics, served.items, build.rejected_items, diff)
    rules = evaluate_rules(gate_input, live.metrics if live else None, build.config.publish.gate)
    return GateVerdict(rules, list_failed_rules(rules), diff)


def evaluate_rules(candidate: GateInput, live_metrics: Mapping[str, float] | None, config: GateConfig) -> tuple[GateRule, ...]:
    """Evaluate every rule, in the order of the config.

    A rule about a metric that was not measured fails; otherwise the gate would check nothing.

    Args:
        candidate: The build.
        live_metrics: Metrics of the live snapshot; None before the first, when nothing can have dropped.
        config: The config section `publish.gate`.
    """
    return (
        *_check_bounds(candidate, config),
        *_check_drops(candidate, live_metrics or {}, config),
        *_check_significant_drops(candidate, live_metrics or {}, config),
        *_check_totals(candidate, config),
    )


def list_failed_rules(rules: tuple[GateRule, ...]) -> tuple[str, ...]:
    """List the messages of the rules that failed."""
    return tuple(rule.message for rule in rules if not rule.passed)


def _compare_with_live(build: BuildCandidate, live: Manifest) -> SnapshotDiff:
    root, gate = build.root, build.config.publish.gate
    snapshots = Snapshots(root, build.config.name)
    return compute_snapshot_diff(
        live.snapshot_id,
        SnapshotTables(snapshots.file(live, "report/per_query.parquet"), snapshots.file(live, "items.parquet")),
        SnapshotTables(root.file(build.evaluation.per_query), root.file(build.embeddings.items)),
        rejected=build.rejected_items - live.rejected,
        metrics=(*gate.significant_drop, *gate.maximum_drop),
        temp_dir=root.tmp,
    )


def _check_bounds(candidate: GateInput, config: GateConfig) -> Iterator[GateRule]:
    for bound, limits, word in (("minimum", config.minimum, "least"), ("maximum", config.maximum, "most")):
        for name, limit in limits.items():
            value = candidate.metrics.get(name)
            passed = value is not None and (value >= limit if bound == "minimum" else value <= limit)
            measured = "was not measured" if value is None else f"is {value:.4f}"
            yield _make_rule(f"{bound}.{name}", value, limit, passed, f"{name} {measured}; it must be at {word} {limit:g}")


def _check_drops(candidate: GateInput, live_metrics: Mapping[str, float], config: GateConfig) -> Iterator[GateRule]:
    for name, limit in config.maximum_drop.items():
        rule, baseline, value = f"maximum_drop.{name}", live_metrics.get(name), candidate.metrics.get(name)
        if baseline is None:
            continue
        if value is None:
            yield _make_rule(rule, None, limit, False, f"{name} was not measured; the live snapshot has {baseline:.4f}")
            continue
        change = "fell" if value < baseline else "went"
        message = f"{name} {change} from {baseline:.4f} to {value:.4f}; the maximum drop is {limit:g}"
        yield _make_rule(rule, baseline - value, limit, baseline - value <= limit, message)


def _check_significant_drops(candidate: GateInput, live_metrics: Mapping[str, float], config: GateConfig) -> Iterator[GateRule]:
    """A drop counts if the p-value of the paired bootstrap is below the limit.

    A set of queries that is new since the live snapshot has nothing to be compared with.
    """
    if candidate.diff is None:
        return
    for name, limit in config.significant_drop.items():
        if "/" in name and name not in live_metrics and name in candidate.metrics:
            continue
        rule, comparison = f"significant_drop.{name}", candidate.diff.metrics.get(name)
        if comparison is None or comparison.difference is None or comparison.p_bootstrap is None:
            yield _make_rule(rule, None, limit, False, f"{name} cannot be compared: no query has it in both snapshots")
            continue
        message = (
            f"{name} changed by {comparison.difference:+.4f} over {comparison.queries:,} common queries, p = {comparison.p_bootstrap:.4f}; "
            f"a drop with p below {limit:g} fails"
        )
        passed = comparison.difference >= 0 or comparison.p_bootstrap >= limit
        yield _make_rule(rule, comparison.p_bootstrap, limit, passed, message)


def _check_totals(candidate: GateInput, config: GateConfig) -> Iterator[GateRule]:
    """Rules about the build as a whole: items, rejects, churn."""
    if (minimum := config.minimum_items) is not None:
        message = f"{candidate.items:,} items would be served; there must be at least {minimum:,}"
        yield _make_rule("minimum_items", candidate.items, minimum, candidate.items >= minimum, message)
    if (maximum := config.maximum_reject_fraction) is not None:
        fraction = candidate.rejected / max(candidate.rejected + candidate.items, 1)
        message = f"{fraction:.2%} of the items are rejected; this must be at most {maximum:.2%}"
        yield _make_rule("maximum_reject_fraction", fraction, maximum, fraction <= maximum, message)
    if (maximum := config.maximum_churn) is not None and candidate.diff is not None:
        churn = candidate.diff.churn_at_10
        if churn is None:
            message = "churn of the first ten results was not measured: the two snapshots have no query in common"
        else:
            message = f"churn of the first ten results is {churn:.2%}; it must be at most {maximum:.2%}"
        yield _make_rule("maximum_churn", churn, maximum, churn is not None and churn <= maximum, message)


def _make_rule(rule: str, measured: float | None, limit: float, passed: bool, message: str) -> GateRule:
    return GateRule(rule=rule, measured=measured, limit=limit, passed=passed, message=message)
