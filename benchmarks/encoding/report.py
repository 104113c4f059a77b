"""Results as Markdown tables and as a plot."""

from __future__ import annotations

from pathlib import Path

from encoding.results import OURS, Limit, Row, Verdict


def table(rows: list[Row]) -> str:
    """One line a variant."""
    head = ["| model | variant | items/s | range | items | cosine | own | |", "|---|---|---|---|---|---|---|---|"]
    return "\n".join(head + [_line(row) for row in rows])


def targets(verdicts: list[Verdict]) -> str:
    """One line a target."""
    head = ["| model | Indexmill's rate divided by that of | ratio | range | target | |", "|---|---|---|---|---|---|"]
    lines = [
        f"| {one.model} | {one.other} | {one.ratio:.2f} | {min(one.ratios):.2f} to {max(one.ratios):.2f} | {one.target:g} | {one.word} |"
        for one in verdicts
    ]
    return "\n".join(head + lines)


def limits(found: list[Limit]) -> str:
    """One line an image model."""
    return "\n".join(
        f"{one.model}: images are read and prepared at {one.opened / one.forward:.1f} times the pure forward rate; "
        f"with no other loss {one.share:.2f} of that rate can be had."
        for one in found
    )


def plot(rows: list[Row], path: Path) -> None:
    """A panel a model, a bar a variant: items a second, with the range of the repeats."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = list(dict.fromkeys(row.model for row in rows))
    figure, panels = pyplot.subplots(len(models), 1, figsize=(8, 2.2 * len(models)), squeeze=False, layout="constrained")
    for panel, model in zip(panels[:, 0], models, strict=True):
        shown = [row for row in rows if row.model == model][::-1]
        error = [[row.rate - min(row.rates) for row in shown], [max(row.rates) - row.rate for row in shown]]
        colours = ["tab:orange" if row.variant == OURS else "tab:blue" for row in shown]
        panel.barh([row.variant for row in shown], [row.rate for row in shown], xerr=error, color=colours, ecolor="grey")
        panel.set_title(model, loc="left")
    panels[-1, 0].set_xlabel("items a second, median and range of the repeats")
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _line(row: Row) -> str:
    cosine = "" if row.cosine is None else f"{row.cosine:.5f}"
    own = "" if row.own is None else f"{row.own:.1%}"
    spread = f"{min(row.rates):,.1f} to {max(row.rates):,.1f}"
    return f"| {row.model} | {row.variant} | {row.rate:,.1f} | {spread} | {row.items:,} | {cosine} | {own} | {row.remark} |"
