"""What each measure is called on paper, what it divides by what, and over what its mean is taken."""

from __future__ import annotations

import re
from typing import NamedTuple

from indexmill.tasks.reports.formats import count
from indexmill.tasks.reports.model import ReportModel


class MetricDefinition(NamedTuple):
    """label: the name on paper; says: formula and denominator in a sentence; larger: whether larger is better."""

    label: str
    explanation: str
    higher_is_better: bool = True


METRIC_DEFINITIONS = (
    (r"map", "mAP", "Average precision of a query: precision at the rank of each relevant item, summed, divided by all relevant items "
     "of the database; those beyond the search depth count as never found."),
    (r"map_at_(\d+)", "mAP@{}", "Average precision of the first {} results; the denominator stays all relevant items of the database."),
    (r"map_by_label", "mAP, mean of labels", "The mean over labels of their mAP: every label counts the same, whatever its queries."),
    (r"map_full_depth", "mAP, full depth", "Average precision with the whole database ranked exactly: what the embedding is worth, "
     "whatever the index finds. Over a sample of the queries."),
    (r"mrr", "MRR", "1 divided by the rank of the first relevant result, 0 where there is none; the mean over queries."),
    (r"r_precision", "R-precision", "Relevant items among the first R results, divided by R, the relevant items of the database."),
    (r"precision_at_(\d+)", "precision@{}", "Relevant items among the first {} results, divided by {}."),
    (r"recall_at_(\d+)", "recall@{}", "Relevant items among the first {} results, divided by all relevant items of the database. "
     "A label of more than {} items cannot reach 1."),
    (r"ndcg_at_(\d+)", "nDCG@{}", "Gain of the first {} results, each divided by log2(rank + 1), as a share of the best possible."),
    (r"hit_rate_at_(\d+)", "hit rate@{}", "The share of queries with a relevant item among the first {} results."),
    (r"ann_recall_at_(\d+)", "ANN recall@{}", "The share of the {} true nearest neighbours (exact search) that the index returns. Labels "
     "play no part."),
    (r"ann_distance_recall_at_(\d+)", "ANN recall@{}, by distance", "The share of the first {} results that are no farther than the last "
     "true neighbour, within 0.001: equals in place of equals are no mistake."),
    (r"ann_distance_ratio_at_(\d+)", "distance ratio@{}", "Distances of the first {} results, divided by those of the true neighbours; "
     "1 is exact, above is worse.", False),
    (r"ann_share_below_half_at_(\d+)", "queries below half@{}", "The share of queries that found less than half of their {} true "
     "neighbours.", False),
    (r"text_to_image_recall_at_(\d+)", "text → image recall@{}", "The share of held-out captions whose own image is among the first {} "
     "of the held-out images."),
    (r"image_to_text_recall_at_(\d+)", "image → text recall@{}", "The share of held-out images of which a caption is among the first {} "
     "of the held-out captions."),
    (r"text_to_image_median_rank", "text → image median rank", "Half of the held-out captions find their image at this rank or better.",
     False),
    (r"image_to_text_median_rank", "image → text median rank", "Half of the held-out images find a caption at this rank or better.",
     False),
    (r"knn_purity_at_(\d+)", "kNN purity@{}", "The share of an item's {} nearest neighbours in the sample that have its label."),
    (r"silhouette", "silhouette", "How much nearer items are to their own label than to the next one, from \u22121 to 1, over the sample."),
)  # fmt: skip


def meaning(name: str) -> MetricDefinition:
    """Of a name in metrics.json; a name that nobody explained stands for itself."""
    for pattern, label, explanation, *higher_is_better in METRIC_DEFINITIONS:
        if found := re.fullmatch(str(pattern), name):
            k = found.groups()[0] if found.groups() else ""
            return MetricDefinition(str(label).replace("{}", k), str(explanation).replace("{}", k), *map(bool, higher_is_better))
    return MetricDefinition(name, "")


def over(contents: ReportModel, name: str) -> str:
    """What the mean is taken over, in words."""
    counts = contents.build_metrics.counts
    if name.startswith("ann_"):
        return f"{count(counts.get('queries'))} held-out queries"
    if name == "map_full_depth":
        return f"{count(counts.get('queries_full_depth'))} sampled queries"
    if name.startswith(("text_to_image", "image_to_text")):
        return "held-out pairs of text and image"
    if name.startswith(("knn_purity", "silhouette")):
        return f"a sample of {count(len(contents.report_data.get('space', {}).get('items', [])))} items"
    return f"{count(counts.get('queries_judged'))} judged queries"
