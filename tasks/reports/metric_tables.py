"""The tables of a report: headline metrics with their changes, metrics at each cutoff, latency and stage times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from indexmill.storage.metrics_file import MetricComparison, MetricsFile
from indexmill.tasks.metrics.latency import compute_encode_fraction
from indexmill.tasks.reports.formats import ROUNDS_TO_ZERO, format_count, format_p_value, format_signed, pluralize
from indexmill.tasks.reports.metric_definitions import MetricDefinition, define_metric, describe_population, is_own_metric
from indexmill.tasks.reports.model import ReportModel

HEADLINE_METRICS = (
    "map",
    "precision_at_1",
    "precision_at_10",
    "recall_at_10",
    "ndcg_at_10",
    "mrr",
    "mrr_at_10",
    "judged_at_10",
    "text_to_image_recall_at_1",
    "text_to_image_recall_at_10",
    "image_to_text_recall_at_1",
    "image_to_text_recall_at_10",
    "ann_recall_at_10",
)
METRIC_FAMILIES = ("precision", "recall", "map", "ndcg", "hit_rate", "mrr", "judged", "ann_recall", "ann_distance_recall")
SET_METRICS = ("ndcg_at_10", "map", "precision_at_10", "recall_at_10", "mrr_at_10", "hit_rate_at_10", "judged_at_10", "ann_recall_at_10")
QUERY_COUNTS = (
    ("queries_unjudged", "query without a judgement", "queries without a judgement"),
    ("queries_rejected", "query that cannot be used", "queries that cannot be used"),
    ("queries_leaking", "query that is nearly equal to an item", "queries that are nearly equal to an item"),
    ("judgements_without_query", "judgement of an unknown query", "judgements of unknown queries"),
    ("judgements_without_item", "judgement of an item that is not served", "judgements of items that are not served"),
    ("judgements_negative", "judgement with a negative grade", "judgements with negative grades"),
    ("judgements_repeated", "repeated judgement", "repeated judgements"),
)
CROSS_MODAL_DIRECTIONS = (("text_to_image", "text → image"), ("image_to_text", "image → text"))
ALPHA = 0.05  # significance level


@dataclass(frozen=True)
class MetricChange:
    """The change of a metric since the live snapshot.

    Args:
        difference: Candidate minus baseline.
        sign: ▲, ▼ or =.
        tone: `better` or `worse` if the change is significant, else `even`.
        words: The change in words.
    """

    difference: float
    sign: str
    tone: str
    words: str

    def __str__(self) -> str:
        return f"{self.sign} {format_signed(self.difference)}, {self.words}"


@dataclass(frozen=True)
class MetricRow:
    """One metric as the report shows it. `trend`: its values in earlier builds and this one."""

    name: str
    definition: MetricDefinition
    value: float
    interval: tuple[float, float] | None
    population: str
    change: MetricChange | None
    trend: list[float]


class MetricFamilyRow(NamedTuple):
    """One line of a table: label, explanation, and one value per column, None where it is missing."""

    label: str
    explanation: str
    values: list[float | None]


@dataclass(frozen=True)
class QueryLatency:
    """Milliseconds of one query by percentile (50, 95, 99), and encoding's share of the median query."""

    search: dict[int, float]
    encode: dict[int, float]
    encode_fraction: float | None


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage, and as a fraction of the longest one."""

    name: str
    seconds: float
    fraction_of_longest: float


def list_headline_metrics(report: ReportModel) -> list[MetricRow]:
    """List the measured metrics among those that the report shows first, and those of the config's own measures."""
    metrics = report.build_metrics.metrics
    names = [*HEADLINE_METRICS, *(name for name in metrics if "/" not in name and is_own_metric(name))]
    return [get_metric_row(report, name) for name in names if name in metrics]


def get_metric_row(report: ReportModel, name: str) -> MetricRow:
    """Collect everything that the report shows about a metric. Raises KeyError if it was not measured."""
    build_metrics = report.build_metrics
    value = build_metrics.metrics[name]
    return MetricRow(
        name=name,
        definition=define_metric(name),
        value=value,
        interval=build_metrics.intervals.get(name),
        population=describe_population(report, name),
        change=describe_change(report, name),
        trend=[*(earlier.metrics[name] for earlier in report.history if name in earlier.metrics), value],
    )


def describe_change(report: ReportModel, name: str) -> MetricChange | None:
    """Describe the change of a metric since the live snapshot.

    Returns:
        The paired test over common queries if there is one, else the difference of the two means; None without either.
    """
    diff, higher_is_better = report.build_metrics.diff, define_metric(name).higher_is_better
    if diff is None:
        return None
    comparison = diff.metrics.get(name)
    if comparison and comparison.difference is not None:
        return _describe_tested_change(comparison, comparison.difference, higher_is_better)
    live = find_live_metrics(report)
    if live is None or name not in live.metrics or name not in report.build_metrics.metrics:
        return None
    difference = report.build_metrics.metrics[name] - live.metrics[name]
    return MetricChange(difference, _choose_sign(difference), "even", "not tested")


def find_live_metrics(report: ReportModel) -> MetricsFile | None:
    """Find the metrics of the live snapshot in the history."""
    diff = report.build_metrics.diff
    return next((earlier for earlier in reversed(report.history) if diff and earlier.snapshot_id == diff.snapshot_id), None)


def summarize_changes(report: ReportModel) -> str:
    """Summarize what changed since the live snapshot, as a sentence without its period; empty for a first snapshot."""
    diff = report.build_metrics.diff
    if diff is None:
        return ""
    changes = {name: describe_change(report, name) for name in diff.metrics}
    parts = []
    for tone in ("better", "worse"):
        labels = [define_metric(name).label for name, change in changes.items() if change and change.tone == tone]
        if labels:
            parts.append(f"{', '.join(labels)} significantly {tone}")
    item_changes = [f"{format_count(diff.items[kind])} {kind}" for kind in ("added", "changed", "removed") if diff.items.get(kind)]
    items = f"items: {', '.join(item_changes)}" if item_changes else "same items"
    return "; ".join([*(parts or ["no significant change"]), items])


def is_significant(comparison: MetricComparison) -> bool:
    """Return whether the paired bootstrap finds a difference at level `ALPHA`."""
    return comparison.p_bootstrap is not None and comparison.p_bootstrap < ALPHA and bool(comparison.difference)


def _describe_tested_change(comparison: MetricComparison, difference: float, higher_is_better: bool) -> MetricChange:
    sign, p_value = _choose_sign(difference), format_p_value(comparison.p_bootstrap)
    if not is_significant(comparison):
        return MetricChange(difference, sign, "even", "no change" if difference == 0 else f"not significant ({p_value})")
    tone = "better" if (difference > 0) == higher_is_better else "worse"
    return MetricChange(difference, sign, tone, f"significantly {tone} ({p_value})")


def _choose_sign(difference: float) -> str:
    """Return an arrow if the difference is visible at the report's precision."""
    return "=" if format_signed(difference) == ROUNDS_TO_ZERO else "▲" if difference > 0 else "▼"


def list_cutoff_rows(build_metrics: MetricsFile) -> list[MetricFamilyRow]:
    """List one row per measured metric family, with one value per cutoff k of the config."""
    rows = []
    for family in METRIC_FAMILIES:
        values = [build_metrics.metrics.get(f"{family}_at_{k}") for k in build_metrics.k]
        if any(value is not None for value in values):
            last_k = build_metrics.k[-1]
            label, explanation, _ = define_metric(f"{family}_at_{last_k}")
            rows.append(MetricFamilyRow(label.replace(f"@{last_k}", "@k"), explanation, values))
    return rows


def list_cross_modal_rows(build_metrics: MetricsFile) -> list[MetricFamilyRow]:
    """List recall@1, @5, @10 and the median rank of each direction; empty without captions."""
    names = (*(f"recall_at_{k}" for k in (1, 5, 10)), "median_rank")
    rows = [
        MetricFamilyRow(label, "", [build_metrics.metrics.get(f"{direction}_{name}") for name in names])
        for direction, label in CROSS_MODAL_DIRECTIONS
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


class QuerySetRow(NamedTuple):
    """One set of one's own queries.

    Attributes:
        name: Its name; empty for the main set.
        queries: How many queries were measured.
        judged: How many of these have judgements.
        metrics: The set's metrics among SET_METRICS.
        notes: What was left out or looks wrong, in words.
    """

    name: str
    queries: int
    judged: int
    metrics: list[MetricRow]
    notes: list[str]


def list_query_sets(report: ReportModel) -> list[QuerySetRow]:
    """List the sets of one's own queries, the main one first; empty for held-out queries."""
    build_metrics = report.build_metrics
    prefixes = [name.removesuffix("queries_read") for name in build_metrics.counts if name.endswith("queries_read")]
    rows = []
    for prefix in prefixes:
        counts = {name.removeprefix(prefix): count for name, count in build_metrics.counts.items() if name.startswith(prefix)}
        own = [name for name in build_metrics.metrics if name.rpartition("/")[0] == prefix.rstrip("/") and is_own_metric(name)]
        names = [*(name for metric in SET_METRICS if (name := prefix + metric) in build_metrics.metrics), *own]
        notes = [pluralize(counts[name], one, many) for name, one, many in QUERY_COUNTS if counts.get(name)]
        metrics = [get_metric_row(report, name) for name in names]
        rows.append(QuerySetRow(prefix.rstrip("/"), counts["queries"], counts["queries_judged"], metrics, notes))
    return rows


def get_latency(build_metrics: MetricsFile) -> QueryLatency | None:
    """Return the latency of single queries; None if none was timed."""
    timings = build_metrics.timings
    search, encode = (
        {percentile: timings[key] for percentile in (50, 95, 99) if (key := f"{name}_p{percentile}_ms") in timings}
        for name in ("single_query", "encode_query")
    )
    return QueryLatency(search, encode, compute_encode_fraction(timings)) if search or encode else None


def list_stage_times(build_metrics: MetricsFile) -> list[StageTime]:
    """List the stages in the order in which they ran."""
    longest = max(build_metrics.stage_seconds.values(), default=0.0) or 1.0
    return [StageTime(name, seconds, seconds / longest) for name, seconds in build_metrics.stage_seconds.items()]
