"""`report/metrics.json`: what a service reads of a build. Its JSON Schema is docs/metrics.schema.json."""

from __future__ import annotations

from typing import Any, Literal

from indexmill.storage.records import Frozen, Modality


class Compared(Frozen):
    """One measure then and now, over the queries that both snapshots asked: means, the mean difference with its 95 % interval, p-values.

    p_bootstrap and p_wilcoxon: two-sided, paired (`indexmill.tasks.measures.significance`). None stands for what could not be computed.
    """

    queries: int
    then: float | None
    now: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_bootstrap: float | None
    p_wilcoxon: float | None


class Since(Frozen):
    """What is different from the snapshot that was live. items: how many were added, removed, changed, relabelled, kept.

    churn_at_10: the mean share of a query's first ten results that are others now; None without a common query.
    """

    snapshot_id: str
    measures: dict[str, Compared]
    churn_at_10: float | None
    common_queries: int
    items: dict[str, int]
    rejected: int


class Rule(Frozen):
    """One rule of the gate: what was measured (None: nothing was), the limit, and whether it held, in a sentence."""

    rule: str
    measured: float | None
    limit: float
    held: bool
    says: str


class GradedPairs(Frozen):
    """Correlation of cosine with given scores over so many pairs; None where it is not defined."""

    spearman: float | None
    pearson: float | None
    pairs: int


class MetricsFile(Frozen):
    """All figures of one build.

    metrics: means over queries, between 0 and 1 unless the name says otherwise; `intervals`: their 95 % bootstrap intervals (low, high).
    Relevance (`map`, `precision_at_10`, …) counts `queries_judged`, agreement with exact search (`ann_…`) all `queries`. graded: by file,
    and `overall`. timings: milliseconds, queries a second, and what they rest on; they differ from run to run. stages: seconds of each
    stage when it last did its work in this build; a remembered stage takes next to none. gate: every rule that was asked; `objections`
    are those that were broken, and `forced` is the reason given for publishing all the same.
    """

    schema_version: Literal[1] = 1
    name: str
    snapshot_id: str
    parent: str | None
    created_at: str
    verdict: Literal["published", "refused"]
    objections: tuple[str, ...]
    forced: str | None
    modality: Modality
    holds: Modality
    asks: Modality
    encoder: dict[str, Any]
    index: dict[str, Any]
    k: tuple[int, ...]
    judged_by: Literal["label", "pairs"] | None
    counts: dict[str, int]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    graded: dict[str, GradedPairs]
    timings: dict[str, float]
    stages: dict[str, float]
    rejects: dict[str, int]
    since: Since | None
    gate: tuple[Rule, ...]
