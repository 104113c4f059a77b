"""Plots as SVG text, to be set into the report. Axes and letters take the colour of the text around them, so they hold on any paper."""

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

INK_PLACEHOLDER = "#010203"  # stands for the page's own colour
SVG_METADATA = re.compile("<metadata>.*?</metadata>", re.DOTALL)  # addresses that nobody asks
BLUE, ORANGE, GREEN = "#3b82f6", "#e8830c", "#0ea371"
CUTOFF_LINES = (("precision_at", "precision", BLUE, "o"), ("recall_at", "recall", ORANGE, "s"), ("ann_recall_at", "ANN recall", GREEN, "^"))
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "indexmill", "font.family": "sans-serif", "font.size": 10.5,
    "text.color": INK_PLACEHOLDER, "axes.labelcolor": INK_PLACEHOLDER, "xtick.color": INK_PLACEHOLDER, "ytick.color": INK_PLACEHOLDER, "axes.edgecolor": INK_PLACEHOLDER,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "grid.color": INK_PLACEHOLDER, "grid.alpha": 0.15, "grid.linewidth": 0.6,
    "lines.linewidth": 1.8, "lines.markersize": 5.5, "legend.frameon": False, "legend.fontsize": 9.5,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.transparent": True, "figure.figsize": (4.9, 3.1),
}  # fmt: skip


def plot_cutoffs(metrics: dict[str, float], ks: Sequence[int]) -> str:
    """Precision, recall and agreement with exact search at each cut-off k, all between 0 and 1."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        for name, label, color, marker in CUTOFF_LINES:
            points = [(k, metrics[f"{name}_{k}"]) for k in ks if f"{name}_{k}" in metrics]
            if points:
                axes.plot(*zip(*points, strict=True), marker=marker, color=color, label=label)
        axes.set(xlabel="cut-off k")
        if len(ks) <= 8 and max(ks) <= 60:
            axes.set_xticks(list(ks))
        _set_unit_axis(axes)
        axes.legend(loc="best")
        return _to_svg(figure, "Precision, recall and agreement with exact search at each cut-off")


def plot_precision_recall(recall: Sequence[float], precision: Sequence[float]) -> str:
    """The mean interpolated precision at each level of recall."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        axes.plot(recall, precision, marker="o", color=BLUE)
        axes.fill_between(recall, precision, color=BLUE, alpha=0.12, linewidth=0)
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02))
        _set_unit_axis(axes)
        return _to_svg(figure, "Precision against recall")


def plot_recall_vs_speed(sweep: Sequence[dict[str, Any]]) -> str:
    """Recall@10 against CPU time a query, one point a width of search; the chosen one ringed."""
    cost, recall = [row["cpu_ms_per_query"] for row in sweep], [row["recall_at_10"] for row in sweep]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots()
        axes.plot(cost, recall, marker="o", color=BLUE)
        for row in sweep:
            if row["chosen"]:
                place = (row["cpu_ms_per_query"], row["recall_at_10"])
                axes.plot(*place, marker="o", markersize=13, fillstyle="none", color=ORANGE, markeredgewidth=2)
                axes.annotate("chosen", place, (0, -17), textcoords="offset points", ha="center", fontsize=9.5)
        if min(cost) > 0 and max(cost) > 8 * min(cost):
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="CPU milliseconds a query, in batches", ylabel="recall@10")
        axes.set_ylim(max(0.0, min(recall) - 0.12), 1.02)
        axes.margins(x=0.12)
        axes.grid(axis="y")
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        return _to_svg(figure, "Recall against the time of a search")


def _set_unit_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.grid(axis="y")


def _to_svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element with a name, scaled by its page. No text in it comes from data."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.04, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = SVG_METADATA.sub("", text[text.index("<svg") :]).replace(INK_PLACEHOLDER, "currentColor")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
