"""`report/metrics.json`, the metrics of one build, and the history of those files. Its JSON Schema is docs/metrics.schema.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from indexmill.storage.atomic import link
from indexmill.storage.records import FileRef, FrozenModel, Modality
from indexmill.storage.root import Root


class MetricComparison(FrozenModel):
    """One measure then and now, over the queries that both snapshots asked: means, the mean difference with its 95 % interval, p-values.

    p_bootstrap and p_wilcoxon: two-sided, paired (`indexmill.tasks.metrics.bootstrap`). None stands for what could not be computed.
    """

    queries: int
    baseline: float | None
    candidate: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_bootstrap: float | None
    p_wilcoxon: float | None


class SnapshotDiff(FrozenModel):
    """What is different from the snapshot that was live. items: how many were added, removed, changed, relabelled, kept.

    churn_at_10: the mean share of a query's first ten results that are others now; None without a common query.
    """

    snapshot_id: str
    metrics: dict[str, MetricComparison]
    churn_at_10: float | None
    common_queries: int
    items: dict[str, int]
    rejected: int


class GateRule(FrozenModel):
    """One rule of the gate: what was measured (None: nothing was), the limit, and whether it held, in a sentence."""

    rule: str
    measured: float | None
    limit: float
    passed: bool
    message: str


class PairCorrelation(FrozenModel):
    """Correlation of cosine with given scores over so many pairs; None where it is not defined."""

    spearman: float | None
    pearson: float | None
    pairs: int


class MetricsFile(FrozenModel):
    """All figures of one build.

    metrics: means over queries, between 0 and 1 unless the name says otherwise; `intervals`: their 95 % bootstrap intervals (low, high).
    Relevance (`map`, `precision_at_10`, …) counts `queries_judged`, agreement with exact search (`ann_…`) all `queries`. graded: by file,
    and `overall`. timings: milliseconds, queries a second, and what they rest on; they differ from run to run. stages: seconds of each
    stage when it last did its work in this build; a remembered stage takes next to none. gate: every rule that was asked; `failed_rules`
    are those that were broken, and `force_reason` is the reason given for publishing all the same.
    """

    schema_version: Literal[2] = 2
    name: str
    snapshot_id: str
    parent: str | None
    created_at: str
    verdict: Literal["published", "refused"]
    failed_rules: tuple[str, ...]
    force_reason: str | None
    modality: Modality
    index_modality: Modality
    query_modality: Modality
    encoder: dict[str, Any]
    index: dict[str, Any]
    k: tuple[int, ...]
    relevance_source: Literal["label", "pairs"] | None
    counts: dict[str, int]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    scored_pairs: dict[str, PairCorrelation]
    timings: dict[str, float]
    stage_seconds: dict[str, float]
    rejects: dict[str, int]
    diff: SnapshotDiff | None
    gate: tuple[GateRule, ...]


def archive_metrics(root: Root, name: str, snapshot_id: str, metrics: FileRef) -> None:
    """Keep the metrics.json of a build; a later one of the same snapshot takes its place."""
    link(root.verify_file(metrics), _history_folder(root, name) / f"{snapshot_id}.json", root.scratch)


def read_metrics_history(root: Root, name: str) -> list[MetricsFile]:
    """The figures of all builds, oldest first. A file that cannot be read is left out: it is history, and nothing rests on it."""
    found = []
    for path in sorted(_history_folder(root, name).glob("*.json")):
        try:
            found.append(MetricsFile.model_validate_json(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return found


def _history_folder(root: Root, name: str) -> Path:
    return root.index(name) / "history"
