"""Plots as SVG text, to be set into the report. Colours hold on light and dark paper alike."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

GREY = "#8a8f98"
# Ten hues, none of them grey: grey is for the rest.
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#0891b2", "#bcbd22", "#17becf")
LINES = (
    ("precision_at", "precision (label)", "#3b82f6"),
    ("recall_at", "recall (label)", "#f59e0b"),
    ("ann_recall_at", "ANN recall", "#10b981"),
)
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "indexmill", "font.family": "sans-serif", "font.size": 10,
    "text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "axes.edgecolor": GREY,
    "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.transparent": True,
}  # fmt: skip


def by_cutoff(metrics: dict[str, float], ks: list[int]) -> str:
    """Precision, recall and agreement with exact search at each cut-off k, all between 0 and 1."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.2))
        for name, label, colour in LINES:
            points = [(k, metrics[f"{name}_{k}"]) for k in ks if f"{name}_{k}" in metrics]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=label)
        axes.set(ylim=(0, 1.03), xlabel="k", xticks=ks)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
        return _svg(figure)


def projection(points: list[list[float]], labels: list[str | None], explained: list[float]) -> str:
    """A sample of the embeddings on their first two principal components; the ten commonest labels in colour, the rest grey."""
    ranked = sorted({label for label in labels if label}, key=lambda label: (-labels.count(label), label))[:10]
    palette: dict[str | None, str] = dict(zip(ranked, COLOURS, strict=False))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 4.2))
        for label in [None, *ranked]:
            mine = [point for point, its in zip(points, labels, strict=True) if (its if its in palette else None) == label]
            if mine:
                size, alpha = (14, 0.8) if label else (6, 0.35)
                x, y = zip(*mine, strict=True)
                axes.scatter(x, y, s=size, alpha=alpha, color=palette.get(label, GREY), label=_literal(label or "other"), linewidths=0)
        axes.set(xlabel=f"component 1 ({explained[0]:.0%} of variance)", ylabel=f"component 2 ({explained[1]:.0%})", xticks=[], yticks=[])
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=1.4)
        return _svg(figure)


def _literal(label: str) -> str:
    """A label that matplotlib draws as it stands: no mathematics between dollars, not hidden for its leading underscore."""
    return "\u200b" + label.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    """The figure as an <svg> element, scaled by its page; labels from data are escaped by matplotlib."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The text stays text, for the browser's fonts to draw; that matplotlib's own lack a sign does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
