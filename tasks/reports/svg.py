"""SVG drawn without matplotlib: the embedding space as scatter plots, and sparklines of metrics over builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from indexmill.tasks.reports.formats import clip, figure

OTHER_COLOR = "#8a9099"
# Ten hues that hold on light and dark paper, none of them grey: grey is for the rest.
LABEL_COLORS = ("#2f7ed8", "#f28e2b", "#22a06b", "#e5484d", "#9b6ddf", "#b5794b", "#e667b4", "#0aa5b8", "#a9a800", "#6b8afd")
WIDTH, HEIGHT, MARGIN = 480, 380, 10
OTHER_LABELS = "other labels"


@dataclass(frozen=True)
class Legend:
    """The commonest labels of the sample, each with its colour and how many points it has; all else is grey."""

    entries: list[tuple[str, str, int]]
    codes: list[int]

    @property
    def colours(self) -> list[str]:
        """The colour of each code."""
        return [colour for _, colour, _ in self.entries]

    @property
    def names(self) -> list[str]:
        """The label of each code."""
        return [name for name, _, _ in self.entries]


@dataclass(frozen=True)
class ScatterPlot:
    """A cloud in two dimensions: for each code the `d` of an SVG path that is a dot at every point."""

    title: str
    explanation: str
    dots: list[tuple[int, str]]


def build_legend(labels: Sequence[str | None]) -> Legend:
    """Codes by frequency, equals by name; the last entry stands for other labels and for none."""
    counts = Counter(label for label in labels if label is not None)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))[: len(LABEL_COLORS)]
    code = {label: place for place, label in enumerate(ranked)}
    codes = [code.get(label, len(ranked)) if label is not None else len(ranked) for label in labels]
    entries = [(clip(label, 40), LABEL_COLORS[place], counts[label]) for place, label in enumerate(ranked)]
    if rest := codes.count(len(ranked)):
        entries.append((OTHER_LABELS if counts else "items", OTHER_COLOR if counts else LABEL_COLORS[0], rest))
    return Legend(entries, codes)


def plot_2d(space: dict[str, Any], of: Legend) -> list[ScatterPlot]:
    """The first two principal components, and t-SNE in two dimensions where it was made."""
    if not space.get("items"):
        return []
    first, second = [*space["pca"]["explained"], 0.0, 0.0][:2]
    explanation = f"The first two components hold {first:.0%} and {second:.0%} of the variance."
    made = [ScatterPlot("Principal components", explanation, dots(space["pca"]["points"], of.codes))]
    for layout in space.get("tsne", []):
        if layout["dimensions"] == 2:
            codes = [of.codes[row] for row in layout["rows"]]
            explanation = f"t-SNE of {len(codes):,} points: neighbours stay neighbours, and distances between clusters say little."
            made.append(ScatterPlot("t-SNE", explanation, dots(layout["points"], codes)))
    return made


def turning(space: dict[str, Any], of: Legend) -> dict[str, Any]:
    """What the script draws: clouds with `points` within a unit ball and `codes`; `colours` and `names` by code. {} without any."""
    clouds = []
    if space.get("items") and len(space["pca"]["points"][0]) >= 3:
        clouds.append({"name": "Principal components", "points": _scale_to_unit_ball(space["pca"]["points"]), "codes": of.codes})
    for layout in space.get("tsne", []):
        if layout["dimensions"] == 3:
            codes = [of.codes[row] for row in layout["rows"]]
            clouds.append({"name": "t-SNE", "points": _scale_to_unit_ball(layout["points"]), "codes": codes})
    return {"clouds": clouds, "colours": of.colours, "names": of.names} if clouds else {}


def dots(points: Sequence[Sequence[float]], codes: Sequence[int]) -> list[tuple[int, str]]:
    """(code, path) with the commonest drawn over the rest, within WIDTH x HEIGHT; y grows upwards, both axes to one scale."""
    low = [min(point[axis] for point in points) for axis in (0, 1)]
    high = [max(point[axis] for point in points) for axis in (0, 1)]
    spans = [(high[axis] - low[axis]) or 1.0 for axis in (0, 1)]
    scale = min((WIDTH - 2 * MARGIN) / spans[0], (HEIGHT - 2 * MARGIN) / spans[1])
    paths: dict[int, list[str]] = {}
    for point, code in zip(points, codes, strict=True):
        x = WIDTH / 2 + (point[0] - (low[0] + high[0]) / 2) * scale
        y = HEIGHT / 2 - (point[1] - (low[1] + high[1]) / 2) * scale
        paths.setdefault(code, []).append(f"M{x:.1f} {y:.1f}h0")
    return [(code, "".join(paths[code])) for code in sorted(paths, reverse=True)]


def _scale_to_unit_ball(points: Sequence[Sequence[float]]) -> list[list[float]]:
    """Centred on the mean and divided by the largest distance from it."""
    middle = [sum(point[axis] for point in points) / len(points) for axis in range(3)]
    moved = [[point[axis] - middle[axis] for axis in range(3)] for point in points]
    reach = max(sum(value * value for value in point) for point in moved) ** 0.5 or 1.0
    return [[round(value / reach, 4) for value in point] for point in moved]


SPARKLINE_WIDTH, SPARKLINE_HEIGHT, SPARKLINE_MARGIN = 110, 26, 4


def sparkline(values: Sequence[float]) -> Markup:
    """An SVG element of the values, oldest first, the last one dotted; nothing of fewer than two. Its scale is from least to greatest."""
    if len(values) < 2:
        return Markup("")
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = (SPARKLINE_WIDTH - 2 * SPARKLINE_MARGIN) / (len(values) - 1)
    points = [
        (
            SPARKLINE_MARGIN + step * at,
            SPARKLINE_HEIGHT - SPARKLINE_MARGIN - (value - low) / span * (SPARKLINE_HEIGHT - 2 * SPARKLINE_MARGIN),
        )
        for at, value in enumerate(values)
    ]
    if low == max(values):
        points = [(x, SPARKLINE_HEIGHT / 2) for x, _ in points]
    explanation = f"{len(values)} builds, from {figure(min(values))} to {figure(max(values))}; last {figure(values[-1])}"
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup(
        '<svg class="spark" role="img" aria-label="{}" viewBox="0 0 {} {}"><title>{}</title><polyline points="{}"/>'
        '<circle cx="{:.1f}" cy="{:.1f}" r="2.6"/></svg>'
    ).format(explanation, SPARKLINE_WIDTH, SPARKLINE_HEIGHT, explanation, line, *points[-1])
