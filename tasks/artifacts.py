"""What a build leaves in Prefect: the latest under each key is the last build, published or refused, for services that ask by key."""

from __future__ import annotations

from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from indexmill.storage.metrics_file import MetricsFile


def leave_artifacts(figures: MetricsFile, folder: Path) -> None:
    """`build-index-NAME`: report.md; `build-index-NAME-figures`: a row a measure; `build-index-NAME-report`: a link to report.html.

    folder: where the report lies. Verdict and snapshot stand in the description of each.
    """
    key, told = f"build-index-{figures.name}", f"{figures.verdict}: {figures.name} {figures.snapshot_id}"
    create_markdown_artifact((folder / "report.md").read_text(encoding="utf-8"), key=key, description=told)
    create_table_artifact([_row(figures, name) for name in sorted(figures.metrics)], key=f"{key}-figures", description=told)
    create_link_artifact((folder / "report.html").as_uri(), link_text="report.html", key=f"{key}-report", description=told)


def _row(figures: MetricsFile, name: str) -> dict[str, str | float | None]:
    low, high = figures.intervals.get(name, (None, None))
    compared = figures.diff.metrics.get(name) if figures.diff else None
    change = compared.difference if compared else None
    return {"measure": name, "value": figures.metrics[name], "low": low, "high": high, "change": change}
