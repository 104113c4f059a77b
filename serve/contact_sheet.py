"""Render the results of one query as a self-contained HTML file."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from indexmill.serve.index import OpenIndex, SearchResult, SearchResults
from indexmill.serve.thumbnails import thumbnail


def render_contact_sheet(index: OpenIndex, answer: SearchResults, query_text: str) -> str:
    """The page as text. Everything from data is escaped by the template. asked: the query, in words."""
    environment = Environment(
        loader=PackageLoader("indexmill.serve", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    results = [_embed_image(index, result) for result in answer.results[0]]
    return environment.get_template("sheet.html.j2").render(answer=answer, query_text=query_text, results=results)


def _embed_image(index: OpenIndex, result: SearchResult) -> dict[str, Any]:
    row = index.items.rows([result.item_id])[0]
    picture = thumbnail(index.manifest.image_root, row) if row else None
    return {**result._asdict(), "picture": base64.b64encode(picture).decode() if picture else None}
