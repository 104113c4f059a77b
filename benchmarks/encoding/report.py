"""Results as Markdown tables and as a plot."""

from __future__ import annotations

from pathlib import Path

from encoding.results import OURS, Limit, Row, Verdict


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


def plot(rows: list[Row], path: Path) -> None:
    """Plot items per second with the range of the repeats: one panel per model, one bar per variant."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row.model for row in rows))
    figure, panels = pyplot.subplots(len(models), 1, figsize=(8, 2.2 * len(models)), squeeze=False, layout="constrained")
    for panel, model in zip(panels[:, 0], models, strict=True):
        model_rows = [row for row in rows if row.model == model][::-1]
        error = [[row.rate - min(row.rates) for row in model_rows], [max(row.rates) - row.rate for row in model_rows]]
        colors = ["tab:orange" if row.variant == OURS else "tab:blue" for row in model_rows]
        panel.barh([row.variant for row in model_rows], [row.rate for row in model_rows], xerr=error, color=colors, ecolor="grey")
        panel.set_title(model, loc="left")
    panels[-1, 0].set_xlabel("items per second, median and range of the repeats")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _line(row: Row) -> str:
    cosine = "" if row.cosine is None else f"{row.cosine:.5f}"
    own_nearest = "" if row.own_nearest is None else f"{row.own_nearest:.1%}"
    spread = f"{min(row.rates):,.1f} to {max(row.rates):,.1f}"
    return f"| {row.model} | {row.variant} | {row.rate:,.1f} | {spread} | {row.items:,} | {cosine} | {own_nearest} | {row.remark} |"
