"""How a figure went from build to build, as a line small enough to stand in a table."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from indexmill.tasks.reports.formats import figure

WIDTH, HEIGHT, MARGIN = 110, 26, 4


def sparkline(values: Sequence[float]) -> Markup:
    """An SVG element of the values, oldest first, the last one dotted; nothing of fewer than two. Its scale is from least to greatest."""
    if len(values) < 2:
        return Markup("")
    low, span = min(values), (max(values) - min(values)) or 1.0
    step = (WIDTH - 2 * MARGIN) / (len(values) - 1)
    places = [(MARGIN + step * at, HEIGHT - MARGIN - (value - low) / span * (HEIGHT - 2 * MARGIN)) for at, value in enumerate(values)]
    if low == max(values):
        places = [(x, HEIGHT / 2) for x, _ in places]
    says = f"{len(values)} builds, from {figure(min(values))} to {figure(max(values))}; last {figure(values[-1])}"
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Markup(
        '<svg class="spark" role="img" aria-label="{}" viewBox="0 0 {} {}"><title>{}</title><polyline points="{}"/>'
        '<circle cx="{:.1f}" cy="{:.1f}" r="2.6"/></svg>'
    ).format(says, WIDTH, HEIGHT, says, line, *places[-1])
