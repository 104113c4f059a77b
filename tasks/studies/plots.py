"""Plots of a study: recall against speed, recall against memory, and encoding time beside search time."""

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

TEXT_COLOR = "#6b7280"  # readable on a light and on a dark background
COLORS = ("#111827", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#0891b2", "#bcbd22", "#e377c2")
X_PADDING = 1.6  # factor between the outermost points and the edges
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "indexmill",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR,
    "xtick.color": TEXT_COLOR,
    "ytick.color": TEXT_COLOR,
    "axes.edgecolor": TEXT_COLOR,
    "axes.titlecolor": TEXT_COLOR,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.rcsetup.cycler(color=COLORS),
}


def plot_recall_vs_speed(rows: Sequence[StudyRow]) -> Figure:
    """Plot recall@10 against queries per second in one batch, one panel per encoder."""
    return _plot_panels(rows, lambda row: row.batch_queries_per_second, "queries per second, one batch")


def plot_recall_vs_memory(rows: Sequence[StudyRow]) -> Figure:
    """Plot recall@10 against bytes per vector, one panel per encoder."""
    return _plot_panels(rows, lambda row: row.bytes_per_vector, "bytes per vector in memory")


def plot_encode_vs_search(rows: Sequence[StudyRow]) -> Figure:
    """Plot the milliseconds to encode one item in a batch, and to search for one query by brute force and with the best index."""
    encoders = list(dict.fromkeys(row.encoder for row in rows))
    bar_values: dict[str, list[float]] = {"encode one item": [], "search, brute force (NumPy)": [], "search, best index": []}
    for encoder in encoders:
        encoder_rows = [row for row in rows if row.encoder == encoder]
        rate = encoder_rows[0].encode_items_per_second
        best = next((row for row in encoder_rows if row.best), encoder_rows[0])
        times = (1000 / rate if rate else 0.0, encoder_rows[0].single_query_p50_ms, best.single_query_p50_ms)
        for values, milliseconds in zip(bar_values.values(), times, strict=True):
            values.append(milliseconds)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 1.2 + 0.9 * len(encoders)), layout="constrained")
        for number, (name, values) in enumerate(bar_values.items()):
            positions = [position + 0.25 * number for position in range(len(encoders))]
            bars = axes.barh(positions, values, height=0.22, label=name, color=("#f59e0b", "#9ca3af", "#10b981")[number])
            axes.bar_label(bars, [f"{value:.3g}" if value else "unknown" for value in values], padding=3, fontsize=9)
        axes.set(xscale="log", xlabel="milliseconds", yticks=[position + 0.25 for position in range(len(encoders))])
        axes.set_yticklabels(_escape_label(encoder) for encoder in encoders)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        figure.legend(loc="outside upper center", frameon=False, ncols=3, fontsize=9)
    return figure


def to_svg(figure: Figure) -> str:
    """Render a figure as an <svg> element with a transparent background. Matplotlib escapes labels from data."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def to_png(figure: Figure) -> bytes:
    """Render a figure as PNG on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, facecolor="white")
    return buffer.getvalue()


@contextmanager
def open_figures(rows: Sequence[StudyRow]) -> Iterator[dict[str, Figure]]:
    """Draw all plots, by file name without suffix. They are closed when the block ends."""
    figures = {
        "recall-speed": plot_recall_vs_speed(rows),
        "recall-memory": plot_recall_vs_memory(rows),
        "encoding-searching": plot_encode_vs_search(rows),
    }
    try:
        yield figures
    finally:
        for figure in figures.values():
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
    """Label 1, 2 and 5 of every power of ten, without scientific notation."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _plot_lines(axes: Axes, rows: Sequence[StudyRow], get_x: Callable[[StudyRow], float]) -> None:
    """Draw one line per index through its search parameters, and a ring around the best row."""
    for index in dict.fromkeys(row.index for row in rows):
        points = sorted((row.ann_recall_at_10, get_x(row)) for row in rows if row.index == index)
        axes.plot(
            [x for _, x in points],
            [recall for recall, _ in points],
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
    """Label an index; `auto` with the factory it chose."""
    factory = next(row.factory for row in rows if row.index == index)
    return index if factory == index else f"{index}: {factory}"


def _escape_label(label: str) -> str:
    """Escape a label so that matplotlib draws it literally: no math between dollar signs, not hidden for a leading underscore."""
    return "\u200b" + label.replace("$", r"\$")
