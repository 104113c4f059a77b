"""Figures side by side: the same measure at each cut-off, and the two ways between texts and images."""

from __future__ import annotations

from typing import NamedTuple

from indexmill.storage.metrics_file import MetricsFile
from indexmill.tasks.reports.glossary import meaning

FAMILIES = ("precision", "recall", "map", "ndcg", "hit_rate", "ann_recall", "ann_distance_recall")
WAYS = (("text_to_image", "text → image"), ("image_to_text", "image → text"))


class Row(NamedTuple):
    """A line of a table: its name, what it means, a value for each column or None."""

    label: str
    says: str
    values: list[float | None]


def at_cutoffs(figures: MetricsFile) -> list[Row]:
    """A row a measure, a column a cut-off of the config; measures that have no value are left out."""
    rows = []
    for family in FAMILIES:
        values = [figures.metrics.get(f"{family}_at_{k}") for k in figures.k]
        if any(value is not None for value in values):
            label, says, *_ = meaning(f"{family}_at_{figures.k[-1]}")
            rows.append(Row(label.replace(f"@{figures.k[-1]}", "@k"), says, values))
    return rows


def both_ways(figures: MetricsFile) -> list[Row]:
    """recall@1, recall@5, recall@10 and the median rank of either way; none where there are no captions."""
    names = (*(f"recall_at_{k}" for k in (1, 5, 10)), "median_rank")
    rows = [Row(label, "", [figures.metrics.get(f"{way}_{name}") for name in names]) for way, label in WAYS]
    return [row for row in rows if any(value is not None for value in row.values)]
