"""SVG drawn without matplotlib: the embedding space as scatter plots, and sparklines of metrics over builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from indexmill.tasks.reports.formats import clip, format_number

OTHER_COLOR = "#8a9099"
# Ten hues that are readable on light and dark backgrounds. None is gray: gray is for other labels.
LABEL_COLORS = ("#2f7ed8", "#f28e2b", "#22a06b", "#e5484d", "#9b6ddf", "#b5794b", "#e667b4", "#0aa5b8", "#a9a800", "#6b8afd")
OTHER_LABELS = "other labels"
PLOT_WIDTH, PLOT_HEIGHT, PLOT_MARGIN = 480, 380, 10
SPARKLINE_WIDTH, SPARKLINE_HEIGHT, SPARKLINE_MARGIN = 110, 26, 4


@dataclass(frozen=True)
class Legend:
    """The most frequent labels of the sample as (label, color, points), and the code (legend entry) of each item."""

    entries: list[tuple[str, str, int]]
    codes: list[int]

    @property
    def colors(self) -> list[str]:
        """The color of each code."""
        return [color for _, color, _ in self.entries]

    @property
    def names(self) -> list[str]:
        """The label of each code."""
        return [name for name, _, _ in self.entries]


@dataclass(frozen=True)
class ScatterPlot:
    """A scatter plot; `dots` has (code, `d` of an SVG path with one dot per point)."""

    title: str
    explanation: str
    dots: list[tuple[int, str]]


def build_legend(labels: Sequence[str | None]) -> Legend:
    """Assign codes by frequency, ties by name; the last entry is for other labels and for items without one."""
    counts = Counter(label for label in labels if label is not None)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))[: len(LABEL_COLORS)]
    code_of = {label: code for code, label in enumerate(ranked)}
    other = len(ranked)
    codes = [code_of.get(label, other) if label is not None else other for label in labels]
    entries = [(clip(label, 40), LABEL_COLORS[code], counts[label]) for code, label in enumerate(ranked)]
    if rest := codes.count(other):
        entries.append((OTHER_LABELS if counts else "items", OTHER_COLOR if counts else LABEL_COLORS[0], rest))
    return Legend(entries, codes)


def plot_2d(space: dict[str, Any], legend: Legend) -> list[ScatterPlot]:
    """Plot the first two principal components, and t-SNE in two dimensions if it was computed."""
    if not space.get("items"):
        return []
    first, second = [*space["pca"]["explained"], 0.0, 0.0][:2]
    explanation = f"The first two components explain {first:.0%} and {second:.0%} of the variance."
    plots = [ScatterPlot("Principal components", explanation, make_dot_paths(space["pca"]["points"], legend.codes))]
    for layout in space.get("tsne", []):
        if layout["dimensions"] == 2:
            codes = [legend.codes[row] for row in layout["rows"]]
            explanation = f"{len(codes):,} points. Neighbors stay together; distances between clusters mean little."
            if placed := layout.get("placed"):
                explanation += f" {len(placed):,} of them are new since the layout was computed, and are beside their nearest neighbors."
            plots.append(ScatterPlot("t-SNE", explanation, make_dot_paths(layout["points"], codes)))
    return plots


def plot_3d(space: dict[str, Any], legend: Legend) -> dict[str, Any]:
    """Prepare the data of rotate.js.

    Returns:
        `clouds`, each with `name`, `points` within the unit ball and `codes`; `colors` and `names` by code. Empty
        without 3-D data.
    """
    clouds = []
    if space.get("items") and len(space["pca"]["points"][0]) >= 3:
        clouds.append({"name": "Principal components", "points": _scale_to_unit_ball(space["pca"]["points"]), "codes": legend.codes})
    for layout in space.get("tsne", []):
        if layout["dimensions"] == 3:
            codes = [legend.codes[row] for row in layout["rows"]]
            clouds.append({"name": "t-SNE", "points": _scale_to_unit_ball(layout["points"]), "codes": codes})
    return {"clouds": clouds, "colors": legend.colors, "names": legend.names} if clouds else {}


def make_dot_paths(points: Sequence[Sequence[float]], codes: Sequence[int]) -> list[tuple[int, str]]:
    """Make one SVG path per code, the most frequent labels last, so that they are drawn on top.

    Args:
        points: 2-D points in any unit; they are scaled to the plot with equal axes, y upwards.
        codes: The legend entry of each point.
    """
    low = [min(point[axis] for point in points) for axis in (0, 1)]
    high = [max(point[axis] for point in points) for axis in (0, 1)]
    spans = [(high[axis] - low[axis]) or 1.0 for axis in (0, 1)]
    scale = min((PLOT_WIDTH - 2 * PLOT_MARGIN) / spans[0], (PLOT_HEIGHT - 2 * PLOT_MARGIN) / spans[1])
    paths: dict[int, list[str]] = {}
    for point, code in zip(points, codes, strict=True):
        x = PLOT_WIDTH / 2 + (point[0] - (low[0] + high[0]) / 2) * scale
        y = PLOT_HEIGHT / 2 - (point[1] - (low[1] + high[1]) / 2) * scale
        paths.setdefault(code, []).append(f"M{x:.1f} {y:.1f}h0")
    return [(code, "".join(paths[code])) for code in sorted(paths, reverse=True)]


def make_sparkline(values: Sequence[float]) -> Markup:
    """Draw values, oldest first, as an <svg> scaled from minimum to maximum; empty for fewer than two values."""
    if len(values) < 2:
        return Markup("")
    low, high = min(values), max(values)
    inner_width, inner_height = SPARKLINE_WIDTH - 2 * SPARKLINE_MARGIN, SPARKLINE_HEIGHT - 2 * SPARKLINE_MARGIN
    step = inner_width / (len(values) - 1)
    points = [
        (
            SPARKLINE_MARGIN + step * position,
            SPARKLINE_HEIGHT / 2 if low == high else SPARKLINE_HEIGHT - SPARKLINE_MARGIN - (value - low) / (high - low) * inner_height,
        )
        for position, value in enumerate(values)
    ]
    description = f"{len(values)} builds, from {format_number(low)} to {format_number(high)}; last {format_number(values[-1])}"
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup(
        '<svg class="spark" role="img" aria-label="{}" viewBox="0 0 {} {}"><title>{}</title><polyline points="{}"/>'
        '<circle cx="{:.1f}" cy="{:.1f}" r="2.6"/></svg>'
    ).format(description, SPARKLINE_WIDTH, SPARKLINE_HEIGHT, description, line, *points[-1])


def _scale_to_unit_ball(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """Center on the mean and divide by the largest distance from it."""
    mean = [sum(point[axis] for point in points) / len(points) for axis in range(3)]
    centered = [[point[axis] - mean[axis] for axis in range(3)] for point in points]
    radius = max(sum(value * value for value in point) for point in centered) ** 0.5 or 1.0
    return [[round(value / radius, 4) for value in point] for point in centered]
