"""The label, the formula and the population of each metric."""

from __future__ import annotations

import re
from typing import NamedTuple

from indexmill.tasks.reports.formats import format_count
from indexmill.tasks.reports.model import ReportModel


class MetricDefinition(NamedTuple):
    """A metric as the report names it. `explanation` states the formula with its denominator."""

    label: str
    explanation: str
    higher_is_better: bool = True


# Pattern of the name in metrics.json -> definition; {} stands for k.
# fmt: off
METRIC_DEFINITIONS: dict[str, MetricDefinition] = {
    r"map": MetricDefinition("mAP", "Average precision of a query: the precision at the rank of each relevant item, summed, divided by the "
        "number of relevant items in the database. Items beyond the search depth count as not retrieved."),
    r"map_at_(\d+)": MetricDefinition("mAP@{}", "Average precision of the first {} results, divided by the number of relevant items in the "
        "database."),
    r"map_by_label": MetricDefinition("mAP, mean of labels", "The mean over labels of each label's mAP, so every label counts the same."),
    r"map_full_depth": MetricDefinition("mAP, full depth", "mAP with the whole database ranked by exact search: the quality of the "
        "embeddings, independent of the index. Measured on a sample of the queries."),
    r"mrr": MetricDefinition("MRR", "1 divided by the rank of the first relevant result, 0 without one; the mean over queries."),
    r"mrr_at_(\d+)": MetricDefinition("MRR@{}", "1 divided by the rank of the first relevant result among the first {}, 0 without one; the "
        "mean over queries."),
    r"judged_at_(\d+)": MetricDefinition("judged@{}", "The share of the first {} results that somebody judged for the query. "
        "The others count as not relevant, so the lower it is, the more the other metrics may underestimate."),
    r"r_precision": MetricDefinition("R-precision", "The number of relevant items among the first R results, divided by R, where R is the "
        "number of relevant items in the database."),
    r"precision_at_(\d+)": MetricDefinition("precision@{}", "The number of relevant items among the first {} results, divided by {}."),
    r"recall_at_(\d+)": MetricDefinition("recall@{}", "The number of relevant items among the first {} results, divided by the number of "
        "relevant items in the database. With more than {} relevant items it cannot reach 1."),
    r"ndcg_at_(\d+)": MetricDefinition("nDCG@{}", "The gains of the first {} results, each divided by log2(rank + 1), divided by the best "
        "possible sum."),
    r"hit_rate_at_(\d+)": MetricDefinition("hit rate@{}", "The share of queries with a relevant item among the first {} results "
        "(success in trec_eval)."),
    r"ann_recall_at_(\d+)": MetricDefinition("ANN recall@{}", "The share of the {} exact nearest neighbors that the index also returns. "
        "Labels do not matter."),
    r"ann_distance_recall_at_(\d+)": MetricDefinition("ANN recall@{}, by distance", "The share of the first {} results that are no farther "
        "away than the last exact neighbor, within 0.001. Neighbors at equal distance are interchangeable."),
    r"ann_distance_ratio_at_(\d+)": MetricDefinition("distance ratio@{}", "The distances of the first {} results divided by those of the "
        "exact neighbors. 1 is exact; higher is worse.", higher_is_better=False),
    r"ann_share_below_half_at_(\d+)": MetricDefinition("queries below half@{}", "The share of queries for which the index returns fewer "
        "than half of the {} exact neighbors.", higher_is_better=False),
    r"text_to_image_recall_at_(\d+)": MetricDefinition("text → image recall@{}", "The share of captions whose own image is among the "
        "first {} images. Both are the held-out ones, or all of them with dataset.queries: pairs."),
    r"image_to_text_recall_at_(\d+)": MetricDefinition("image → text recall@{}", "The share of images with one of their captions among "
        "the first {} captions. Both are the held-out ones, or all of them with dataset.queries: pairs."),
    r"text_to_image_median_rank": MetricDefinition("text → image median rank", "Half of the captions find their image at this rank or "
        "better.", higher_is_better=False),
    r"image_to_text_median_rank": MetricDefinition("image → text median rank", "Half of the images find one of their captions at this "
        "rank or better.", higher_is_better=False),
    r"knn_purity_at_(\d+)": MetricDefinition("kNN purity@{}", "The share of an item's {} nearest neighbors in the sample with its label."),
    r"silhouette": MetricDefinition("silhouette", "How much closer items are to their own label than to the nearest other label, from "
        "\u22121 to 1, over the sample."),
}
# fmt: on


def define_metric(name: str) -> MetricDefinition:
    """Look up the definition of a name in metrics.json; an unknown name is its own label.

    A metric of a further set of queries, `SET/METRIC`, is labeled with the set.
    """
    set_name, slash, metric = name.rpartition("/")
    if slash:
        definition = define_metric(metric)
        return definition._replace(label=f"{set_name}: {definition.label}")
    for pattern, definition in METRIC_DEFINITIONS.items():
        if match := re.fullmatch(pattern, name):
            k = match.groups()[0] if match.groups() else ""
            return definition._replace(label=definition.label.replace("{}", k), explanation=definition.explanation.replace("{}", k))
    return MetricDefinition(name, "")


def is_own_metric(name: str) -> bool:
    """Return whether a metric comes from a measure of one's own, which gets all queries: Indexmill does not define it."""
    return not define_metric(name).explanation


def describe_population(report: ReportModel, name: str) -> str:
    """Describe the population that the mean of a metric is computed over."""
    counts = report.build_metrics.counts
    has_own_queries = "queries_read" in counts
    set_name, slash, metric = name.rpartition("/")
    if slash:
        is_of_all = metric.startswith("ann_") or is_own_metric(metric)
        kind, count = ("", "queries") if is_of_all else ("judged ", "queries_judged")
        return f"{format_count(counts.get(f'{set_name}/{count}'))} {kind}queries"
    if name.startswith("ann_") or is_own_metric(name):
        return f"{format_count(counts.get('queries'))} {'' if has_own_queries else 'held-out '}queries"
    if name == "map_full_depth":
        return f"{format_count(counts.get('queries_full_depth'))} sampled queries"
    if name.startswith(("text_to_image", "image_to_text")):
        return "text-image pairs" if has_own_queries else "held-out text-image pairs"
    if name.startswith(("knn_purity", "silhouette")):
        return f"a sample of {format_count(len(report.report_data.get('space', {}).get('items', [])))} items"
    return f"{format_count(counts.get('queries_judged'))} judged queries"
