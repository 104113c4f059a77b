"""The gate: whether tonight's build is good enough to replace the live snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from indexmill.configs.models import GateConfig
from indexmill.storage.metrics_file import Rule, Since


@dataclass(frozen=True)
class Candidate:
    """What the gate looks at. items: served; rejected: items that are not; since: what differs from the live snapshot, if there is one."""

    metrics: Mapping[str, float]
    items: int
    rejected: int
    since: Since | None


def judged(candidate: Candidate, live: Mapping[str, float] | None, rules: GateConfig) -> tuple[Rule, ...]:
    """Every rule of the config with what came of it, in the config's order.

    live: the live snapshot's metrics, None before the first: then nothing can have fallen. A measure that a rule names and nobody measured
    breaks that rule, or the gate would watch nothing.
    """
    parts = (_bounds(candidate, rules), _drops(candidate, live, rules), _significant(candidate, rules), _whole(candidate, rules))
    return tuple(chain.from_iterable(parts))


def objections(rules: tuple[Rule, ...]) -> tuple[str, ...]:
    """The sentences of the rules that were broken."""
    return tuple(rule.says for rule in rules if not rule.held)


def _bounds(candidate: Candidate, rules: GateConfig) -> Iterator[Rule]:
    for kind, limits, word in (("minimum", rules.minimum, "least"), ("maximum", rules.maximum, "most")):
        for name, limit in limits.items():
            value = candidate.metrics.get(name)
            held = value is not None and (value >= limit if kind == "minimum" else value <= limit)
            got = "was not measured" if value is None else f"is {value:.4f}"
            yield _rule(f"{kind}.{name}", value, limit, held, f"{name} {got}, and must be at {word} {limit:g}")


def _drops(candidate: Candidate, live: Mapping[str, float] | None, rules: GateConfig) -> Iterator[Rule]:
    for name, most in rules.maximum_drop.items():
        before, value = (live or {}).get(name), candidate.metrics.get(name)
        if before is None:
            continue
        if value is None:
            says = f"{name} was not measured, and was {before:.4f} in the live snapshot"
            yield _rule(f"maximum_drop.{name}", None, most, False, says)
            continue
        held = before - value <= most
        says = f"went from {before:.4f} to {value:.4f}, within" if held else f"fell from {before:.4f} to {value:.4f}, by more than"
        yield _rule(f"maximum_drop.{name}", before - value, most, held, f"{name} {says} {most:g}")


def _significant(candidate: Candidate, rules: GateConfig) -> Iterator[Rule]:
    """A drop counts when the paired bootstrap's p-value is below the level."""
    if candidate.since is None:
        return
    for name, level in rules.significant_drop.items():
        found = candidate.since.measures.get(name)
        if found is None or found.difference is None or found.p_bootstrap is None:
            says = f"{name} could not be compared: no query of both snapshots has it"
            yield _rule(f"significant_drop.{name}", None, level, False, says)
            continue
        held = found.difference >= 0 or found.p_bootstrap >= level
        says = f"{name} changed by {found.difference:+.4f} over {found.queries:,} common queries, p = {found.p_bootstrap:.4f}"
        yield _rule(f"significant_drop.{name}", found.p_bootstrap, level, held, f"{says}; a fall may not have p below {level:g}")


def _whole(candidate: Candidate, rules: GateConfig) -> Iterator[Rule]:
    """Rules about the build as a whole."""
    if (least := rules.minimum_items) is not None:
        says = f"{candidate.items:,} items are served, and must be at least {least:,}"
        yield _rule("minimum_items", candidate.items, least, candidate.items >= least, says)
    if (most := rules.maximum_reject_share) is not None:
        share = candidate.rejected / max(candidate.rejected + candidate.items, 1)
        yield _rule("maximum_reject_share", share, most, share <= most, f"{share:.2%} of the items are rejected, at most {most:.2%} may be")
    if (most := rules.maximum_churn) is not None and candidate.since is not None:
        churn = candidate.since.churn_at_10
        told = "could not be measured: no query was asked of both snapshots" if churn is None else f"is {churn:.2%}, at most {most:.2%}"
        yield _rule("maximum_churn", churn, most, churn is not None and churn <= most, f"churn of the first ten results {told}")


def _rule(rule: str, measured: float | None, limit: float, held: bool, says: str) -> Rule:
    return Rule(rule=rule, measured=measured, limit=limit, held=held, says=says)
