"""Example queries with their top results: images, texts, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexmill.storage.contents import join_location
from indexmill.tasks.reports.formats import clip
from indexmill.tasks.reports.model import ReportModel

MAX_QUERIES = 24  # per group
MAX_RESULTS = 10
VISIBLE_QUERIES = 3  # per group; the rest is collapsed
QUERY_GROUPS = (
    ("examples", "Random", "The first queries by item id. Ids are hashes, so this is a random choice."),
    ("worst", "Worst", "The judged queries with the lowest average precision (AP)."),
    ("best", "Best", "The judged queries with the highest average precision (AP)."),
)


@dataclass(frozen=True)
class Tile:
    """One item as it is shown.

    Args:
        key: The item's key.
        label: Its label, or an empty string.
        text: Its text, or an empty string.
        path: The path of its image; None if it has none.
        score: Its score as a result; None for a query.
        same_label: Whether it has the query's label; None if relevance does not come from labels.
        grade: How relevant people judged it; None if nobody did.
    """

    key: str
    label: str
    text: str
    path: str | None
    score: float | None = None
    same_label: bool | None = None
    grade: int | None = None

    @property
    def is_relevant(self) -> bool:
        """Whether it is marked as relevant."""
        return bool(self.same_label) or (self.grade or 0) > 0


@dataclass(frozen=True)
class QueryExample:
    """One query, its results, best first, and its average precision if it was judged."""

    query: Tile
    results: list[Tile]
    average_precision: float | None


@dataclass(frozen=True)
class QueryGroup:
    """Queries chosen by one criterion. `total` counts those chosen; `examples` are the first of them."""

    title: str
    explanation: str
    examples: list[QueryExample]
    total: int


def group_queries(report: ReportModel) -> list[QueryGroup]:
    """Return the groups that have queries."""
    groups = []
    for name, title, explanation in QUERY_GROUPS:
        rows = report.report_data.get(name) or []
        if rows:
            examples = [_make_example(row, report) for row in rows[:MAX_QUERIES]]
            groups.append(QueryGroup(title, explanation, examples, len(rows)))
    return groups


def list_image_paths(groups: list[QueryGroup]) -> Iterator[str]:
    """List the path of every image in the order of the page."""
    for group in groups:
        for example in group.examples:
            yield from (tile.path for tile in (example.query, *example.results) if tile.path)


def resolve_image_path(report: ReportModel, path: str | None, image_root: str | None = None) -> str | None:
    """Return the location of an image; None without an image root or path, or if the path leaves the image root.

    The image root is that of the data set unless another one is given.
    """
    image_root = image_root or report.manifest.image_root
    if image_root is None or not path or Path(path).is_absolute() or ".." in Path(path).parts:
        return None
    return join_location(image_root, path)


def _make_example(row: dict[str, Any], report: ReportModel) -> QueryExample:
    label = row["query"].get("label")
    is_labeled = report.build_metrics.relevance_source == "label" and label is not None
    results = [_make_tile(item, report, item["label"] == label if is_labeled else None) for item in row["results"][:MAX_RESULTS]]
    return QueryExample(_make_tile(row["query"], report, None), results, row.get("average_precision"))


def _make_tile(item: dict[str, Any], report: ReportModel, same_label: bool | None) -> Tile:
    return Tile(
        key=clip(item["key"], 80),
        label=clip(item["label"], 60),
        text=clip(item["text"]),
        path=resolve_image_path(report, item.get("path"), item.get("image_root")),
        score=item.get("score"),
        same_label=same_label,
        grade=item.get("grade"),
    )
