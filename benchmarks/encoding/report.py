"""Results as Markdown tables and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.encoding.results import OURS, Limit, Row, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def format_table(rows: list[Row]) -> str:
    """Format one line per variant."""
    head = ["| model | variant | items/s | range | items | cosine | own nearest | |", "|---|---|---|---|---|---|---|---|"]
    return "\n".join(head + [_line(row) for row in rows])


def format_targets(verdicts: list[Verdict]) -> str:
    """Format one line per target."""
    head = ["| model | Indexmill's rate divided by that of | ratio | range | target | |", "|---|---|---|---|---|---|"]
    lines = [
        f"| {result.model} | {result.other} | {result.ratio:.2f} | {min(result.ratios):.2f} to {max(result.ratios):.2f} "
        f"| {result.target:g} | {result.word} |"
        for result in verdicts
    ]
    return "\n".join(head + lines)


def format_limits(limits: list[Limit]) -> str:
    """Format one line per image model."""
    return "\n".join(
        f"{result.model}: images are read and prepared at {result.opened / result.forward:.1f} times the pure forward rate; "
        f"at most {result.share:.2f} of that rate can be reached."
        for result in limits
    )


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw Indexmill's rate divided by that of each other variant, and the target as a line across the bar."""
    from benchmarks.plotting import PALETTE, draw_bars, get_bars_height, split_panels

    verdicts, rates = results["targets"], {(row["model"], row["variant"]): row["rate"] for row in results["rows"]}
    ratios = {f"{result['model']}, {result['other']}": result["ratio"] for result in verdicts}
    pairs = [(rates[result["model"], OURS], rates[result["model"], result["other"]]) for result in verdicts]
    texts = [
        f"{result['ratio']:.2f}   ({_round(ours)} against {_round(other)} per second)"
        for result, (ours, other) in zip(verdicts, pairs, strict=True)
    ]
    colors = {model: PALETTE[number] for number, model in enumerate(dict.fromkeys(result["model"] for result in verdicts))}
    (axes,) = split_panels(figure, 1, height=get_bars_height(len(ratios)))
    bar_colors = [colors[result["model"]] for result in verdicts]
    unit, targets = "Indexmill's rate divided by the other's (line: target)", [result["target"] for result in verdicts]
    draw_bars(axes, ratios, unit=unit, text=texts, colors=bar_colors, targets=targets)


def _round(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _line(row: Row) -> str:
    cosine = "" if row.cosine is None else f"{row.cosine:.5f}"
    own_nearest = "" if row.own_nearest is None else f"{row.own_nearest:.1%}"
    spread = f"{min(row.rates):,.1f} to {max(row.rates):,.1f}"
    return f"| {row.model} | {row.variant} | {row.rate:,.1f} | {spread} | {row.items:,} | {cosine} | {own_nearest} | {row.remark} |"


def print_row(row: Mapping[str, object], number_format: str) -> None:
    """Print the values of a row as a line of a table in Markdown; floats in a format such as `{:.2f}`."""
    cells = (number_format.format(value) if isinstance(value, float) else str(value) for value in row.values())
    print("| " + " | ".join(cells) + " |", flush=True)
