"""The style of all plots, and the few forms that they take: bars with their values, bars by stage, and lines with their names.

Colors are those of Okabe and Ito, which readers who do not see all colors tell apart; Indexmill is blue, and others are
gray where only Indexmill and others are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, OTHERS = "#0072B2", "#808080"
PALETTE = (OURS, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#000000")
TEXT, FAINT = "#222222", "#666666"
STYLE = {
    "figure.facecolor": "white",
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": "#BBBBBB",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "grid.color": "#E6E6E6",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "ytick.labelcolor": TEXT,
    "svg.fonttype": "none",
    "savefig.dpi": 130,
}
ROW_HEIGHT = 0.32  # inches per bar


@contextmanager
def open_figure(path: Path, caption: str) -> Iterator[Figure]:
    """Yield an empty figure, and write it with a caption below. The suffix of the path is the format."""
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(9, 4), layout="constrained")
        try:
            yield figure
            figure.supxlabel(caption, fontsize=8, color=FAINT, x=0.01, ha="left")
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path)
        finally:
            plt.close(figure)


def split_panels(figure: Figure, columns: int, *, height: float, rows: int = 1, sharey: bool = False) -> list[Axes]:
    """Divide the figure into panels of equal size, row by row. height: of the figure in inches."""
    figure.set_size_inches(9, height)
    figure.get_layout_engine().set(wspace=0.06 if columns > 1 else 0)  # names of lines end where the next panel begins
    return list(figure.subplots(rows, columns, sharey=sharey, squeeze=False).ravel())


def get_bars_height(bars: int) -> float:
    """Return the height in inches of a figure with so many bars below one another."""
    return 1.4 + ROW_HEIGHT * bars


def draw_bars(
    axes: Axes, values: Mapping[str, float], *, unit: str, text: str | Sequence[str] = "{:,.1f}", colors: str | Sequence[str] = OURS
) -> None:
    """Draw horizontal bars, the first on top, each with its value. text: a format for the value, or the text of every bar."""
    names, numbers = list(values), list(values.values())
    bars = axes.barh(range(len(names)), numbers, color=colors, height=0.72)
    texts = [text.format(number) for number in numbers] if isinstance(text, str) else list(text)
    axes.bar_label(bars, texts, padding=4, fontsize=9, color=TEXT)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=unit)
    axes.set_xlim(0, max([*numbers, 1e-9]) * (1.12 + 0.035 * max(map(len, texts), default=0)))
    axes.invert_yaxis() if not axes.yaxis_inverted() else None
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def draw_targets(axes: Axes, targets: Sequence[float | None]) -> None:
    """Mark the target of each bar with a line across it."""
    for row, target in enumerate(targets):
        if target is not None:
            axes.plot([target, target], [row - 0.44, row + 0.44], color=TEXT, linewidth=2)


def draw_stages(figure: Figure, panels: Mapping[str, Mapping[str, float]], *, unit: str = "seconds, each on its own scale") -> None:
    """Draw one panel per build, side by side on scales of their own, with one bar per stage; the titles give the sums."""
    stages = list(dict.fromkeys(stage for values in panels.values() for stage in values))
    all_axes = split_panels(figure, len(panels), height=get_bars_height(len(stages)), sharey=True)
    for axes, (title, values) in zip(all_axes, panels.items(), strict=True):
        draw_bars(axes, {stage: values.get(stage, 0.0) for stage in stages}, unit=unit)
        axes.set_title(f"{title}: {sum(values.values()):,.1f} s")
        axes.locator_params(axis="x", nbins=4)


def draw_lines(
    axes: Axes,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    colors: Sequence[str] = PALETTE,
    marker: str = "o",
) -> None:
    """Draw lines, each with its name in its color beside its end. Set scales of the axes before: names keep a distance on them."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y")
    ends = []
    for number, (name, (xs, ys)) in enumerate(series.items()):
        color = colors[number % len(colors)]
        axes.plot(xs, ys, color=color, marker=marker, linestyle="-" if number < len(colors) else "--")
        ends.append((xs[-1], ys[-1], name, color))
    axes.margins(x=0.02)
    _name_ends(axes, ends)


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write a name beside each point. points: x, y, name, color."""
    _name_ends(axes, points, at_edge=False)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, at_edge: bool = True) -> None:
    """Write names beside points, moved up where two would overlap."""
    axes.autoscale_view()
    axes.figure.canvas.draw()  # transforms hold only once the layout is known
    line_height = 12 * axes.figure.dpi / 72
    last = float("-inf")
    for x, y, name, color in sorted(ends, key=lambda end: end[1]):
        height = axes.transData.transform((x, y))[1]
        shown = max(height, last + line_height)
        last = shown
        x_points = {"xy": (1, y), "xycoords": ("axes fraction", "data")} if at_edge else {"xy": (x, y)}
        axes.annotate(
            name, xytext=(7, (shown - height) * 72 / axes.figure.dpi), textcoords="offset points", color=color,
            va="center", fontsize=9, annotation_clip=False, **x_points,
        )  # fmt: skip
