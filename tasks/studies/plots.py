"""Plots of a study: recall against speed, recall against memory, and encoding beside searching."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from indexmill.tasks.studies.results import StudyRow

TEXT_COLOR = "#6b7280"  # readable on light and on dark paper
COLORS = ("#111827", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#0891b2", "#bcbd22", "#e377c2")
X_PADDING = 1.6  # beside the outermost points, as a factor
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "indexmill", "font.family": "sans-serif", "font.size": 10, "text.color": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR, "xtick.color": TEXT_COLOR, "ytick.color": TEXT_COLOR, "axes.edgecolor": TEXT_COLOR, "axes.titlecolor": TEXT_COLOR,
    "axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLORS),
}  # fmt: skip


def plot_recall_vs_speed(rows: Sequence[StudyRow]) -> Figure:
    """One panel an encoder: recall@10 against exact search over queries a second in one batch."""
    return _plot_panels(rows, lambda row: row.batch_queries_per_second, "queries a second, one batch")


def plot_recall_vs_memory(rows: Sequence[StudyRow]) -> Figure:
    """One panel an encoder: recall@10 against exact search over bytes a vector."""
    return _plot_panels(rows, lambda row: row.bytes_per_vector, "bytes a vector in memory")


def plot_encode_vs_search(rows: Sequence[StudyRow]) -> Figure:
    """Milliseconds to encode one item in batches, beside those of one query by brute force and by the best index."""
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    kinds: dict[str, list[float]] = {"encode an item": [], "search, brute force (NumPy)": [], "search, the best index": []}
    for encoder in encoders:
        mine = [row for row in rows if row.encoder == encoder]
        rate = mine[0].encode_items_per_second
        best = next((row for row in mine if row.best), mine[0])
        times = (1000 / rate if rate else 0.0, mine[0].single_query_p50_ms, best.single_query_p50_ms)
        for values, milliseconds in zip(kinds.values(), times, strict=True):
            values.append(milliseconds)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 1.2 + 0.9 * len(encoders)), layout="constrained")
        for number, (name, values) in enumerate(kinds.items()):
            positions = [position + 0.25 * number for position in range(len(encoders))]
            bars = axes.barh(positions, values, height=0.22, label=name, color=("#f59e0b", "#9ca3af", "#10b981")[number])
            axes.bar_label(bars, [f"{value:.3g}" if value else "not known" for value in values], padding=3, fontsize=9)
        axes.set(xscale="log", xlabel="milliseconds", yticks=[position + 0.25 for position in range(len(encoders))])
        axes.set_yticklabels(_escape_label(encoder) for encoder in encoders)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        figure.legend(loc="outside upper center", frameon=False, ncols=3, fontsize=9)
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element on no ground; labels from data are escaped by matplotlib."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """The figure as a picture on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, facecolor="white")
    return buffer.getvalue()


@contextmanager
def figures(rows: Sequence[StudyRow]) -> Iterator[dict[str, Figure]]:
    """File name, without its suffix -> plot; all closed at the end."""
    made = {
        "recall-speed": plot_recall_vs_speed(rows),
        "recall-memory": plot_recall_vs_memory(rows),
        "encoding-searching": plot_encode_vs_search(rows),
    }
    try:
        yield made
    finally:
        for figure in made.values():
            plt.close(figure)


def _plot_panels(rows: Sequence[StudyRow], get_x: Callable[[StudyRow], float], label: str) -> Figure:
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, len(encoders), figsize=(6.4 * len(encoders), 4.2), sharey=True, squeeze=False, layout="constrained")
        for axes, encoder in zip(grid[0], encoders, strict=True):
            _plot_lines(axes, [row for row in rows if row.encoder == encoder], get_x)
            values = [get_x(row) for row in rows if row.encoder == encoder]
            axes.set(xscale="log", xlabel=label, title=_escape_label(encoder), xlim=(min(values) / X_PADDING, max(values) * X_PADDING))
            _format_log_axis(axes)
        grid[0][0].set(ylabel="recall@10 against exact search")
        handles, names = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)
    return figure


def _format_log_axis(axes: Axes) -> None:
    """Numbers at 1, 2 and 5 of every power of ten, written out."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plot_lines(axes: Axes, rows: Sequence[StudyRow], get_x: Callable[[StudyRow], float]) -> None:
    """A line for each index through its settings; the best one ringed."""
    for index in dict.fromkeys(row.index for row in rows):
        mine = sorted((row.ann_recall_at_10, get_x(row)) for row in rows if row.index == index)
        axes.plot(
            [x for _, x in mine],
            [y for y, _ in mine],
            marker="o",
            markersize=4,
            linewidth=1.4,
            label=_escape_label(_label_index(rows, index)),
        )
    for row in rows:
        if row.best:
            axes.plot(get_x(row), row.ann_recall_at_10, marker="o", markersize=12, fillstyle="none", color="#10b981", linestyle="")
    axes.grid(which="major", alpha=0.25)


def _label_index(rows: Sequence[StudyRow], index: str) -> str:
    """The index, and what it became where that is something else."""
    factory = next(row.factory for row in rows if row.index == index)
    return index if factory == index else f"{index}: {factory}"


def _escape_label(label: str) -> str:
    """A label that matplotlib draws as it stands: no mathematics between dollars, not hidden for its leading underscore."""
    return "\u200b" + label.replace("$", r"\$")
