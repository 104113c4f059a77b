"""`report/metrics.json` (schema: docs/metrics.schema.json): the metrics of one build, and their history."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from indexmill.storage.atomic import link
from indexmill.storage.records import FileRef, FrozenModel, Modality
from indexmill.storage.root import Root


class MetricComparison(FrozenModel):
    """One metric in two snapshots, over their common queries. None stands for a value that could not be computed."""

    queries: int = Field(description="common queries that have the metric in both snapshots")
    baseline: float | None = Field(description="mean in the baseline snapshot")
    candidate: float | None = Field(description="mean in the candidate snapshot")
    difference: float | None = Field(description="mean difference, candidate minus baseline")
    low: float | None = Field(description="lower end of the difference's 95 % bootstrap interval")
    high: float | None = Field(description="upper end of the difference's 95 % bootstrap interval")
    p_bootstrap: float | None = Field(description="p-value of the two-sided paired bootstrap test")
    p_wilcoxon: float | None = Field(description="p-value of the two-sided Wilcoxon signed-rank test")


class SnapshotDiff(FrozenModel):
    """What changed since the snapshot that was live."""

    snapshot_id: str = Field(description="the snapshot compared with")
    metrics: dict[str, MetricComparison]
    churn_at_10: float | None = Field(description="mean share of a query's first ten results that changed; None without a common query")
    common_queries: int
    items: dict[str, int] = Field(description="how many items were added, removed, changed, relabeled, kept")
    rejected: int = Field(description="how many more items are rejected")


class GateRule(FrozenModel):
    """One gate rule and its result."""

    rule: str
    measured: float | None = Field(description="the measured value; None if nothing was measured")
    limit: float
    passed: bool
    message: str = Field(description="the result in a sentence")


class PairCorrelation(FrozenModel):
    """The correlation of cosine similarities with the scores of scored pairs; None where it is not defined."""

    spearman: float | None
    pearson: float | None
    pairs: int


SKIPPED = "skipped "  # starts the counts of files that are no items; their suffix or kind follows


class MetricsFile(FrozenModel):
    """All metrics of one build."""

    schema_version: Literal[2] = 2
    name: str = Field(description="the index")
    snapshot_id: str
    parent: str | None = Field(description="the snapshot that was live when this one was built")
    created_at: str = Field(description="UTC, ISO 8601")
    verdict: Literal["published", "refused"] = Field(description="the decision of the gate")
    failed_rules: tuple[str, ...] = Field(description="the gate rules that failed")
    force_reason: str | None = Field(description="the reason given for publishing despite failed rules")
    modality: Modality = Field(description="modality of the items")
    index_modality: Modality = Field(description="what the index holds: vectors of the items or of their captions")
    query_modality: Modality = Field(description="modality of the queries")
    encoder: dict[str, Any]
    index: dict[str, Any]
    k: tuple[int, ...] = Field(description="the cut-offs")
    relevance_source: Literal["label", "pairs", "judgements"] | None = Field(description="what makes an item relevant to a query")
    counts: dict[str, int]
    metrics: dict[str, float] = Field(
        description="means over queries, between 0 and 1 unless the name says otherwise; relevance metrics (map, precision_at_10, …)"
        " count `queries_judged`, agreement with exact search (ann_…) counts all `queries`"
    )
    intervals: dict[str, tuple[float, float]] = Field(description="95 % bootstrap intervals (low, high) of means in `metrics`")
    scored_pairs: dict[str, PairCorrelation] = Field(description="per file of scored pairs, and `overall`")
    timings: dict[str, float] = Field(description="milliseconds and queries per second; they vary between runs")
    stage_seconds: dict[str, float] = Field(description="seconds per stage; a cached stage takes almost none")
    rejects: dict[str, int] = Field(description="reason -> rejected items")
    diff: SnapshotDiff | None = Field(description="changes since the live snapshot; None for the first build")
    gate: tuple[GateRule, ...] = Field(description="every gate rule with its result")


def archive_metrics(root: Root, name: str, snapshot_id: str, metrics: FileRef) -> None:
    """Add a build's metrics.json to the history, replacing an earlier one of the same snapshot."""
    link(root.verify_file(metrics), _history_folder(root, name) / f"{snapshot_id}.json", root.scratch)


def list_skipped(metrics: MetricsFile) -> dict[str, int]:
    """Return the number of files that are no items by suffix or kind, the most frequent first."""
    counts = {name.removeprefix(SKIPPED): number for name, number in metrics.counts.items() if name.startswith(SKIPPED)}
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def read_metrics_history(root: Root, name: str) -> list[MetricsFile]:
    """Read the metrics of all builds, oldest first.

    Unreadable files are skipped, because nothing depends on the history.
    """
    history = []
    for path in root.list_files(_history_folder(root, name), "*.json"):
        try:
            history.append(MetricsFile.model_validate_json(root.fetch(path).read_bytes()))
        except (OSError, ValueError):
            continue
    return history


def _history_folder(root: Root, name: str) -> Path:
    return root.index(name) / "history"
