"""The tables of a report: headline metrics with their changes, metrics at each cutoff, latency and stage times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from indexmill.storage.metrics_file import MetricComparison, MetricsFile
from indexmill.tasks.metrics.latency import compute_encode_fraction
from indexmill.tasks.reports.formats import ROUNDS_TO_ZERO, count, probability, signed
from indexmill.tasks.reports.glossary import MetricDefinition, meaning, over
from indexmill.tasks.reports.model import ReportModel

HEADLINE_METRICS = (
    "map", "precision_at_1", "precision_at_10", "recall_at_10", "ndcg_at_10", "mrr",
    "text_to_image_recall_at_1", "text_to_image_recall_at_10", "image_to_text_recall_at_1", "image_to_text_recall_at_10",
    "ann_recall_at_10",
)  # fmt: skip
ALPHA = 0.05


@dataclass(frozen=True)
class MetricChange:
    """One measure against the live snapshot. tone: `better` or `worse` where that is sure, else `even`; sign: ▲, ▼ or =."""

    difference: float
    sign: str
    tone: str
    words: str

    def __str__(self) -> str:
        return f"{self.sign} {signed(self.difference)}, {self.words}"


@dataclass(frozen=True)
class MetricRow:
    """One measure as it is shown. trend: the values of earlier builds that have one and this, oldest first."""

    name: str
    meaning: MetricDefinition
    value: float
    interval: tuple[float, float] | None
    over: str
    change: MetricChange | None
    trend: list[float]


def headlines(contents: ReportModel) -> list[MetricRow]:
    """The measures that come first on the page, as far as they were measured."""
    return [get_metric_row(contents, name) for name in HEADLINE_METRICS if name in contents.build_metrics.metrics]


def get_metric_row(contents: ReportModel, name: str) -> MetricRow:
    """One measure with all that is known of it. KeyError where it was not measured."""
    build_metrics = contents.build_metrics
    trend = [past.metrics[name] for past in contents.history if name in past.metrics]
    value = build_metrics.metrics[name]
    return MetricRow(
        name, meaning(name), value, build_metrics.intervals.get(name), over(contents, name), change(contents, name), [*trend, value]
    )


def change(contents: ReportModel, name: str) -> MetricChange | None:
    """Since the live snapshot: over the queries of both with a paired test, or of the two means alone; None without either."""
    diff, higher_is_better = contents.build_metrics.diff, meaning(name).higher_is_better
    if diff is None:
        return None
    compared = diff.metrics.get(name)
    if compared and compared.difference is not None:
        return _describe_tested_change(compared, compared.difference, higher_is_better)
    before = find_live_metrics(contents)
    if before is None or name not in before.metrics or name not in contents.build_metrics.metrics:
        return None
    difference = contents.build_metrics.metrics[name] - before.metrics[name]
    return MetricChange(difference, _choose_sign(difference), "even", "not tested")


def find_live_metrics(contents: ReportModel) -> MetricsFile | None:
    """The figures of the snapshot that this build is compared with, if they are remembered."""
    diff = contents.build_metrics.diff
    return next((past for past in reversed(contents.history) if diff and past.snapshot_id == diff.snapshot_id), None)


def summed(contents: ReportModel) -> str:
    """What changed since the live snapshot, in one sentence without its end; nothing for a first snapshot."""
    diff = contents.build_metrics.diff
    if diff is None:
        return ""
    told = {name: change(contents, name) for name in diff.metrics}
    parts = []
    for tone in ("better", "worse"):
        names = [meaning(name).label for name, one in told.items() if one and one.tone == tone]
        if names:
            parts.append(f"{', '.join(names)} significantly {tone}")
    moved = [f"{count(diff.items[kind])} {kind}" for kind in ("added", "changed", "removed") if diff.items.get(kind)]
    return "; ".join([*(parts or ["no figure significantly different"]), f"items: {', '.join(moved)}" if moved else "the same items"])


def is_significant(compared: MetricComparison) -> bool:
    """Whether the paired bootstrap tells the change from chance at the level SURE."""
    return compared.p_bootstrap is not None and compared.p_bootstrap < ALPHA and bool(compared.difference)


def _describe_tested_change(compared: MetricComparison, difference: float, higher_is_better: bool) -> MetricChange:
    if not is_significant(compared):
        words = "no change" if difference == 0 else f"not significant ({probability(compared.p_bootstrap)})"
        return MetricChange(difference, _choose_sign(difference), "even", words)
    better = (difference > 0) == higher_is_better
    words = f"significantly {'better' if better else 'worse'} ({probability(compared.p_bootstrap)})"
    return MetricChange(difference, _choose_sign(difference), "better" if better else "worse", words)


def _choose_sign(difference: float) -> str:
    """An arrow where the difference shows in the figures at all."""
    return "=" if signed(difference) == ROUNDS_TO_ZERO else "▲" if difference > 0 else "▼"


METRIC_FAMILIES = ("precision", "recall", "map", "ndcg", "hit_rate", "ann_recall", "ann_distance_recall")
CROSS_MODAL_DIRECTIONS = (("text_to_image", "text → image"), ("image_to_text", "image → text"))


class MetricFamilyRow(NamedTuple):
    """A line of a table: its name, what it means, a value for each column or None."""

    label: str
    explanation: str
    values: list[float | None]


def list_cutoff_rows(build_metrics: MetricsFile) -> list[MetricFamilyRow]:
    """A row a measure, a column a cut-off of the config; measures that have no value are left out."""
    rows = []
    for family in METRIC_FAMILIES:
        values = [build_metrics.metrics.get(f"{family}_at_{k}") for k in build_metrics.k]
        if any(value is not None for value in values):
            label, explanation, *_ = meaning(f"{family}_at_{build_metrics.k[-1]}")
            rows.append(MetricFamilyRow(label.replace(f"@{build_metrics.k[-1]}", "@k"), explanation, values))
    return rows


def list_cross_modal_rows(build_metrics: MetricsFile) -> list[MetricFamilyRow]:
    """recall@1, recall@5, recall@10 and the median rank of either way; none where there are no captions."""
    names = (*(f"recall_at_{k}" for k in (1, 5, 10)), "median_rank")
    rows = [
        MetricFamilyRow(label, "", [build_metrics.metrics.get(f"{way}_{name}") for name in names]) for way, label in CROSS_MODAL_DIRECTIONS
    ]
    return [row for row in rows if any(value is not None for value in row.values)]


@dataclass(frozen=True)
class QueryLatency:
    """Milliseconds of one query: search, and encoding where it was timed. share: of encoding in the median of both."""

    search: dict[int, float]
    encode: dict[int, float]
    share: float | None


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage; part: of the longest one."""

    name: str
    seconds: float
    fraction_of_longest: float


def latency(build_metrics: MetricsFile) -> QueryLatency | None:
    """None where no query was timed."""
    timings = build_metrics.timings
    search, encode = (
        {at: timings[f"{name}_p{at}_ms"] for at in (50, 95, 99) if f"{name}_p{at}_ms" in timings}
        for name in ("single_query", "encode_query")
    )
    return QueryLatency(search, encode, compute_encode_fraction(timings)) if search or encode else None


def stage_seconds(build_metrics: MetricsFile) -> list[StageTime]:
    """In the order in which they ran."""
    longest = max(build_metrics.stage_seconds.values(), default=0.0) or 1.0
    return [StageTime(name, seconds, seconds / longest) for name, seconds in build_metrics.stage_seconds.items()]
