"""Render the results of one query as a self-contained HTML file."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from indexmill.serve.index import OpenIndex, SearchResult, SearchResults
from indexmill.serve.thumbnails import make_thumbnail


def render_contact_sheet(index: OpenIndex, answer: SearchResults, query_text: str) -> str:
    """Render the first query's results as one HTML page. The template escapes every string.

    Args:
        index: The snapshot that was searched; its image root is where thumbnails are read from.
        answer: The results to show.
        query_text: The heading: the query itself, or a description of it.
    """
    environment = Environment(
        loader=PackageLoader("indexmill.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    results = [_embed_image(index, result) for result in answer.results[0]]
    return environment.get_template("contact_sheet.html.j2").render(answer=answer, query_text=query_text, results=results)


def _embed_image(index: OpenIndex, result: SearchResult) -> dict[str, Any]:
    row = index.items.get_rows([result.item_id])[0]
    image = make_thumbnail(index.manifest.image_root, row) if row else None
    return {**result._asdict(), "image": base64.b64encode(image).decode() if image else None}
