"""Evaluate the rules of `publish.gate`: the build against fixed limits and against the live snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from indexmill.configs.models import GateConfig
from indexmill.storage.metrics_file import GateRule, SnapshotDiff
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.evaluation.snapshot_diff import compute_snapshot_diff
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards


@dataclass(frozen=True)
class GateInput:
    """What the gate looks at. items: served; rejected: items that are not; since: what differs from the live snapshot, if there is one."""

    metrics: Mapping[str, float]
    items: int
    rejected: int
    diff: SnapshotDiff | None


def evaluate_rules(candidate: GateInput, live: Mapping[str, float] | None, rules: GateConfig) -> tuple[GateRule, ...]:
    """Every rule of the config with what came of it, in the config's order.

    live: the live snapshot's metrics, None before the first: then nothing can have fallen. A measure that a rule names and nobody measured
    breaks that rule, or the gate would watch nothing.
    """
    parts = (
        _check_bounds(candidate, rules),
        _check_drops(candidate, live, rules),
        _check_significant_drops(candidate, rules),
        _check_totals(candidate, rules),
    )
    return tuple(chain.from_iterable(parts))


def failed_rules(rules: tuple[GateRule, ...]) -> tuple[str, ...]:
    """The sentences of the rules that were broken."""
    return tuple(rule.message for rule in rules if not rule.passed)


def _check_bounds(candidate: GateInput, rules: GateConfig) -> Iterator[GateRule]:
    for kind, limits, word in (("minimum", rules.minimum, "least"), ("maximum", rules.maximum, "most")):
        for name, limit in limits.items():
            value = candidate.metrics.get(name)
            passed = value is not None and (value >= limit if kind == "minimum" else value <= limit)
            got = "was not measured" if value is None else f"is {value:.4f}"
            yield _make_rule(f"{kind}.{name}", value, limit, passed, f"{name} {got}, and must be at {word} {limit:g}")


def _check_drops(candidate: GateInput, live: Mapping[str, float] | None, rules: GateConfig) -> Iterator[GateRule]:
    for name, most in rules.maximum_drop.items():
        before, value = (live or {}).get(name), candidate.metrics.get(name)
        if before is None:
            continue
        if value is None:
            message = f"{name} was not measured, and was {before:.4f} in the live snapshot"
            yield _make_rule(f"maximum_drop.{name}", None, most, False, message)
            continue
        passed = before - value <= most
        message = f"went from {before:.4f} to {value:.4f}, within" if passed else f"fell from {before:.4f} to {value:.4f}, by more than"
        yield _make_rule(f"maximum_drop.{name}", before - value, most, passed, f"{name} {message} {most:g}")


def _check_significant_drops(candidate: GateInput, rules: GateConfig) -> Iterator[GateRule]:
    """A drop counts when the paired bootstrap's p-value is below the level."""
    if candidate.diff is None:
        return
    for name, level in rules.significant_drop.items():
        found = candidate.diff.metrics.get(name)
        if found is None or found.difference is None or found.p_bootstrap is None:
            message = f"{name} could not be compared: no query of both snapshots has it"
            yield _make_rule(f"significant_drop.{name}", None, level, False, message)
            continue
        passed = found.difference >= 0 or found.p_bootstrap >= level
        message = f"{name} changed by {found.difference:+.4f} over {found.queries:,} common queries, p = {found.p_bootstrap:.4f}"
        yield _make_rule(f"significant_drop.{name}", found.p_bootstrap, level, passed, f"{message}; a fall may not have p below {level:g}")


def _check_totals(candidate: GateInput, rules: GateConfig) -> Iterator[GateRule]:
    """Rules about the build as a whole."""
    if (least := rules.minimum_items) is not None:
        message = f"{candidate.items:,} items are served, and must be at least {least:,}"
        yield _make_rule("minimum_items", candidate.items, least, candidate.items >= least, message)
    if (most := rules.maximum_reject_fraction) is not None:
        share = candidate.rejected / max(candidate.rejected + candidate.items, 1)
        yield _make_rule(
            "maximum_reject_fraction", share, most, share <= most, f"{share:.2%} of the items are rejected, at most {most:.2%} may be"
        )
    if (most := rules.maximum_churn) is not None and candidate.diff is not None:
        churn = candidate.diff.churn_at_10
        told = "could not be measured: no query was asked of both snapshots" if churn is None else f"is {churn:.2%}, at most {most:.2%}"
        yield _make_rule("maximum_churn", churn, most, churn is not None and churn <= most, f"churn of the first ten results {told}")


def _make_rule(rule: str, measured: float | None, limit: float, passed: bool, message: str) -> GateRule:
    return GateRule(rule=rule, measured=measured, limit=limit, passed=passed, message=message)


class GateVerdict(NamedTuple):
    """rules: all that were asked; objections: those that were broken, as sentences; since: None for the first snapshot."""

    rules: tuple[GateRule, ...]
    failed_rules: tuple[str, ...]
    diff: SnapshotDiff | None


def verdict(build: BuildCandidate, served: ServedShards, snapshot_id: str) -> GateVerdict:
    """Ask the gate. A build that is the live snapshot again is compared with nothing."""
    live = build.live if build.live and build.live.snapshot_id != snapshot_id else None
    gate = build.config.publish.gate
    changed = _compare_with_live(build, live.snapshot_id, live.rejected) if live else None
    rules = evaluate_rules(GateInput(build.evaluation.metrics, served.items, build.rejected, changed), live.metrics if live else None, gate)
    return GateVerdict(rules, failed_rules(rules), changed)


def _compare_with_live(build: BuildCandidate, snapshot_id: str, rejected: int) -> SnapshotDiff:
    folder, root = Snapshots(build.root, build.config.name).get_path(snapshot_id), build.root
    now = (root.file(build.evaluation.per_query), root.file(build.embeddings.items))
    named = (*build.config.publish.gate.significant_drop, *build.config.publish.gate.maximum_drop)
    then = (folder / "report" / "per_query.parquet", folder / "items.parquet")
    return compute_snapshot_diff(snapshot_id, then, now, build.rejected - rejected, named, temp_dir=root.tmp)
