"""The gate: whether tonight's figures are good enough to replace the live snapshot's."""

from __future__ import annotations

from collections.abc import Mapping

from configs.models import GateConfig


def objections(metrics: Mapping[str, float], live: Mapping[str, float] | None, rules: GateConfig) -> list[str]:
    """Every rule that `metrics` break, as a sentence; an empty list lets them through.

    live: the live snapshot's metrics, None before the first. A measure that a rule names and nobody measured breaks that rule.
    """
    broken = []
    for name, least in rules.minimum.items():
        value = metrics.get(name)
        if value is None:
            broken.append(f"{name} was not measured, and must be at least {least:g}")
        elif value < least:
            broken.append(f"{name} is {value:.4f}, and must be at least {least:g}")
    for name, most in rules.maximum_drop.items():
        before, value = (live or {}).get(name), metrics.get(name)
        if before is None:
            continue
        if value is None:
            broken.append(f"{name} was not measured, and was {before:.4f} in the live snapshot")
        elif before - value > most:
            broken.append(f"{name} fell from {before:.4f} to {value:.4f}, by more than {most:g}")
    return broken
