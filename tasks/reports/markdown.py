"""report.md: the build in a few lines."""

from __future__ import annotations

from tasks.reports.contents import Contents


def render_markdown(contents: Contents) -> str:
    """Verdict and figures."""
    figures = contents.figures
    lines = [f"# {figures.name}: {figures.verdict}", "", *(f"- {name}: {value:.4f}" for name, value in figures.metrics.items())]
    return "\n".join(lines) + "\n"
