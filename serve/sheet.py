"""A contact sheet: the results of one query as one HTML file that opens from disk with no network."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from indexmill.serve.opening import Answer, OpenIndex, Result
from indexmill.serve.thumbnails import thumbnail


def contact_sheet(index: OpenIndex, answer: Answer, asked: str) -> str:
    """The page as text. Everything from data is escaped by the template. asked: the query, in words."""
    environment = Environment(
        loader=PackageLoader("indexmill.serve", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    results = [_pictured(index, result) for result in answer.results[0]]
    return environment.get_template("sheet.html.j2").render(answer=answer, asked=asked, results=results)


def _pictured(index: OpenIndex, result: Result) -> dict[str, Any]:
    row = index.items.rows([result.item_id])[0]
    picture = thumbnail(index.manifest.base, row) if row else None
    return {**result._asdict(), "picture": base64.b64encode(picture).decode() if picture else None}
