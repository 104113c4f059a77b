"""The style of all plots, and the few forms that they take: bars with their values, bars by stage, and lines with their names.

Colors are those of Okabe and Ito, which readers who do not see all colors tell apart; Indexmill is blue, and others are
gray where only Indexmill and others are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

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
PLAIN_NUMBERS = StrMethodFormatter("{x:,g}")
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
    axes: Axes,
    values: Mapping[str, float],
    *,
    unit: str,
    text: str | Sequence[str] = "{:,.1f}",
    colors: str | Sequence[str] = OURS,
    targets: Sequence[float | None] = (),
) -> None:
    """Draw horizontal bars, the first on top, each with its value, and a line across those that have a target.

    text: a format for the value, or the text of every bar.
    """
    names, numbers = list(values), list(values.values())
    axes.barh(range(len(names)), numbers, color=colors, height=0.72)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=unit)
    axes.xaxis.set_major_formatter(PLAIN_NUMBERS)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    ends = []
    for row, (number, target) in enumerate(zip_longest(numbers, targets)):
        if target is not None:
            axes.plot([target, target], [row - 0.44, row + 0.44], color=TEXT, linewidth=2)
        words = text.format(number) if isinstance(text, str) else text[row]
        end = max(number, target or 0)
        style = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        ends.append((end, axes.annotate(words, (end, row), **style)))
    _make_room(axes, ends)


def _make_room(axes: Axes, ends: Sequence[tuple[float, Annotation]]) -> None:
    """Set the horizontal limit so that every text, which begins at its value, fits into the panel."""
    for _, text in ends:
        text.set_in_layout(False)  # else the panel shrinks as long as a text is outside of it
    axes.figure.canvas.draw()  # widths hold only once the layout is known
    width = axes.get_window_extent().width
    limits = [end / max(0.2, 0.93 - text.get_window_extent().width / width) for end, text in ends]
    axes.set_xlim(0, max([*limits, 1e-9]))


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
    axes.xaxis.set_major_formatter(PLAIN_NUMBERS)
    write_plain_numbers(axes)
    axes.grid(axis="y")
    ends = []
    for number, (name, (xs, ys)) in enumerate(series.items()):
        color = colors[number % len(colors)]
        axes.plot(xs, ys, color=color, marker=marker, linestyle="-" if number < len(colors) else "--")
        ends.append((xs[-1], ys[-1], name, color))
    axes.margins(x=0.02)
    _name_ends(axes, ends)


def write_plain_numbers(axes: Axes) -> None:
    """Write 20 and 1,000 beside the vertical axis, where matplotlib has powers of ten; call it after setting the scale."""
    axes.yaxis.set_major_formatter(PLAIN_NUMBERS)
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names of points into a column at the right, each with a thin line to its point. points: x, y, name, color."""
    axes.figure.canvas.draw()  # transforms hold only once the layout is known
    box, line_height = axes.get_window_extent(), 13 * axes.figure.dpi / 72
    heights = _spread([axes.transData.transform((0, y))[1] for _, y, _, _ in points], line_height)
    for (x, y, name, color), height in zip(points, heights, strict=True):
        axes.annotate(
            name, xy=(x, y), xytext=(1.03, (height - box.y0) / box.height), textcoords="axes fraction", color=color, va="center",
            fontsize=9, annotation_clip=False, arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip


def _spread(heights: Sequence[float], distance: float) -> list[float]:
    """Move heights up, in their order, until each is so far above the one below it."""
    spread, last = list(heights), float("-inf")
    for position in sorted(range(len(heights)), key=lambda position: heights[position]):
        spread[position] = last = max(heights[position], last + distance)
    return spread


def _name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names at the right edge of the panel at the heights of their points, moved up where two would overlap."""
    axes.autoscale_view()
    axes.figure.canvas.draw()
    heights = [axes.transData.transform((0, y))[1] for _, y, _, _ in ends]
    for (_, y, name, color), height, shown in zip(ends, heights, _spread(heights, 12 * axes.figure.dpi / 72), strict=True):
        axes.annotate(
            name, xy=(1, y), xycoords=("axes fraction", "data"), xytext=(7, (shown - height) * 72 / axes.figure.dpi),
            textcoords="offset points", color=color, va="center", fontsize=9, annotation_clip=False,
        )  # fmt: skip
