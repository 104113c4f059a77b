"""Plots as SVG text for the report.

Axes and text take the color of the text around them, so plots fit light and dark pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TEXT_COLOR_PLACEHOLDER = "#010203"  # replaced by currentColor
SVG_METADATA = re.compile("<metadata>.*?</metadata>", re.DOTALL)  # contains URLs
BLUE, ORANGE, GREEN = "#3b82f6", "#e8830c", "#0ea371"
CUTOFF_LINES = (
    ("precision_at", "precision", BLUE, "o"),
    ("recall_at", "recall", ORANGE, "s"),
    ("ann_recall_at", "ANN recall", GREEN, "^"),
)
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "indexmill",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": TEXT_COLOR_PLACEHOLDER,
    "axes.labelcolor": TEXT_COLOR_PLACEHOLDER,
    "xtick.color": TEXT_COLOR_PLACEHOLDER,
    "ytick.color": TEXT_COLOR_PLACEHOLDER,
    "axes.edgecolor": TEXT_COLOR_PLACEHOLDER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "grid.color": TEXT_COLOR_PLACEHOLDER,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.transparent": True,
    "figure.figsize": (4.9, 3.1),
}


def plot_cutoffs(metrics: dict[str, float], ks: Sequence[int]) -> str:
    """Plot precision, recall and ANN recall at each cutoff k."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        for name, label, color, marker in CUTOFF_LINES:
            points = [(k, metrics[f"{name}_{k}"]) for k in ks if f"{name}_{k}" in metrics]
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, color=color, label=label)
        axes.set(xlabel="cutoff k")
        if len(ks) <= 8 and max(ks) <= 60:
            axes.set_xticks(list(ks))
        _set_unit_axis(axes)
        axes.legend(loc="best")
        return _to_svg(figure, "Precision, recall and ANN recall at each cutoff")


def plot_precision_recall(recall: Sequence[float], precision: Sequence[float]) -> str:
    """Plot the mean interpolated precision at each level of recall."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        axes.plot(recall, precision, marker="o", color=BLUE)
        axes.fill_between(recall, precision, color=BLUE, alpha=0.12, linewidth=0)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02))
        _set_unit_axis(axes)
        return _to_svg(figure, "Precision against recall")


def plot_recall_vs_speed(sweep: Sequence[dict[str, Any]]) -> str:
    """Plot recall@10 against CPU time per query, one point per row of the search sweep, with the chosen one circled."""
    cpu_ms, recall = [row["cpu_ms_per_query"] for row in sweep], [row["recall_at_10"] for row in sweep]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        axes.plot(cpu_ms, recall, marker="o", color=BLUE)
        for row in sweep:
            if row["chosen"]:
                position = (row["cpu_ms_per_query"], row["recall_at_10"])
                axes.plot(*position, marker="o", markersize=13, fillstyle="none", color=ORANGE, markeredgewidth=2)
                axes.annotate("chosen", position, (0, -17), textcoords="offset points", ha="center", fontsize=9.5)
        if min(cpu_ms) > 0 and max(cpu_ms) > 8 * min(cpu_ms):
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="CPU milliseconds per query, in batches", ylabel="recall@10")
        axes.set_ylim(max(0.0, min(recall) - 0.12), 1.02)
        axes.margins(x=0.12)
        axes.grid(axis="y")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return _to_svg(figure, "Recall against search time")


def _set_unit_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.grid(axis="y")


def _to_svg(figure: Figure, title: str) -> str:
    """Return the figure as an <svg> element with an accessible name. None of its text comes from data."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    svg = buffer.getvalue()
    svg = SVG_METADATA.sub("", svg[svg.index("<svg") :]).replace(TEXT_COLOR_PLACEHOLDER, "currentColor")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
