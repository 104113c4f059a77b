"""Example queries with their top results: images, texts, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexmill.tasks.reports.formats import clip
from indexmill.tasks.reports.model import ReportModel

MAX_QUERIES = 24  # queries of a kind
MAX_RESULTS = 10
VISIBLE_QUERIES = 3  # of a kind before the rest is folded away
QUERY_GROUPS = (
    ("examples", "By chance", "The first queries by item id, which is a hash: nobody chose them."),
    ("worst", "The worst", "The judged queries with the least average precision."),
    ("best", "The best", "The judged queries with the greatest average precision."),
)


@dataclass(frozen=True)
class Tile:
    """One item. path: of its image, None without one. alike: has the query's label; None where that says nothing."""

    key: str
    label: str
    text: str
    path: str | None
    score: float | None = None
    alike: bool | None = None


@dataclass(frozen=True)
class QueryExample:
    """One query, its average precision if it was judged, and its results, the best first."""

    query: Tile
    results: list[Tile]
    figure: float | None


@dataclass(frozen=True)
class QueryGroup:
    """Queries that were chosen one way. total: how many there are, of which these are the first."""

    title: str
    explanation: str
    asked: list[QueryExample]
    total: int


def group_queries(contents: ReportModel) -> list[QueryGroup]:
    """The kinds that have queries."""
    made = []
    for name, title, explanation in QUERY_GROUPS:
        rows = contents.report_data.get(name) or []
        if rows:
            made.append(QueryGroup(title, explanation, [_make_example(row, contents) for row in rows[:MAX_QUERIES]], len(rows)))
    return made


def paths(made: list[QueryGroup]) -> Iterator[str]:
    """Of every picture in its order on the page."""
    for kind in made:
        for asked in kind.asked:
            yield from (tile.path for tile in (asked.query, *asked.results) if tile.path)


def resolve_image_path(contents: ReportModel, path: str | None) -> str | None:
    """The full path of an image of the data set; None without a folder, without a path, or with one that leads out of the folder."""
    image_root = contents.manifest.image_root
    if image_root is None or not path or Path(path).is_absolute() or ".." in Path(path).parts:
        return None
    return str(Path(image_root) / path)


def _make_example(row: dict[str, Any], contents: ReportModel) -> QueryExample:
    wanted = row["query"].get("label")
    tells = contents.build_metrics.relevance_source == "label" and wanted is not None
    results = [_make_tile(item, contents, item["label"] == wanted if tells else None) for item in row["results"][:MAX_RESULTS]]
    return QueryExample(_make_tile(row["query"], contents, None), results, row.get("average_precision"))


def _make_tile(item: dict[str, Any], contents: ReportModel, alike: bool | None) -> Tile:
    path = resolve_image_path(contents, item.get("path"))
    return Tile(clip(item["key"], 80), clip(item["label"], 60), clip(item["text"]), path, item.get("score"), alike)
