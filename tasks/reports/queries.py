"""Queries with their first results, as tiles: a picture, a text, or both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexmill.tasks.reports.contents import Contents
from indexmill.tasks.reports.formats import clip

MOST = 24  # queries of a kind
RESULTS = 10
SHOWN = 3  # of a kind before the rest is folded away
KINDS = (
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
class Asked:
    """One query, its average precision if it was judged, and its results, the best first."""

    query: Tile
    results: list[Tile]
    figure: float | None


@dataclass(frozen=True)
class Kind:
    """Queries that were chosen one way. total: how many there are, of which these are the first."""

    title: str
    says: str
    asked: list[Asked]
    total: int


def kinds(contents: Contents) -> list[Kind]:
    """The kinds that have queries."""
    made = []
    for name, title, says in KINDS:
        rows = contents.sketches.get(name) or []
        if rows:
            made.append(Kind(title, says, [_asked(row, contents) for row in rows[:MOST]], len(rows)))
    return made


def paths(made: list[Kind]) -> Iterator[str]:
    """Of every picture in its order on the page."""
    for kind in made:
        for asked in kind.asked:
            yield from (tile.path for tile in (asked.query, *asked.results) if tile.path)


def picture_path(contents: Contents, path: str | None) -> str | None:
    """The full path of an image of the data set; None without a folder, without a path, or with one that leads out of the folder."""
    base = contents.manifest.base
    if base is None or not path or Path(path).is_absolute() or ".." in Path(path).parts:
        return None
    return str(Path(base) / path)


def _asked(row: dict[str, Any], contents: Contents) -> Asked:
    wanted = row["query"].get("label")
    tells = contents.figures.judged_by == "label" and wanted is not None
    results = [_tile(item, contents, item["label"] == wanted if tells else None) for item in row["results"][:RESULTS]]
    return Asked(_tile(row["query"], contents, None), results, row.get("figure"))


def _tile(item: dict[str, Any], contents: Contents, alike: bool | None) -> Tile:
    path = picture_path(contents, item.get("path"))
    return Tile(clip(item["key"], 80), clip(item["label"], 60), clip(item["text"]), path, item.get("score"), alike)
