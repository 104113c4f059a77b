"""Search a snapshot from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from indexmill.serve import OpenIndex, SearchResults, open_index
from indexmill.serve.queries import check_modality, query_modalities
from indexmill.storage.atomic import Scratch
from indexmill.storage.errors import InputError


def search_index(
    root: str, name: str, *, text: str | None, image: Path | None, k: int, label: str | None = None, snapshot: str | None = None,
    show: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The k best items of a snapshot for a text or an image, and the milliseconds that opening, loading, encoding and searching took.

    label: only items with this label. snapshot: another than the live one. show: where to write a contact sheet as HTML.
    """
    start = time.perf_counter()
    index = open_index(root, name, snapshot)
    opened_at = time.perf_counter()
    _check_query(index, text, image)
    index.encoder.load()
    loaded_at = time.perf_counter()
    answer = index.search(
        texts=None if text is None else [text], images=None if image is None else [image], k=k, label=label
    )  # fmt: skip
    if show is not None:
        _write_contact_sheet(show, index, answer, f"like {image.name}" if image else text or "")
    times = {
        "open_ms": (opened_at - start) * 1000,
        "load_ms": (loaded_at - opened_at) * 1000,
        "encode_ms": answer.encode_ms,
        "search_ms": answer.search_ms,
    }
    results = [_with_absolute_path(result._asdict(), index.manifest.image_root) for result in answer.results[0]]
    return {"name": name, "snapshot_id": answer.snapshot_id, "metric": answer.metric, "results": results, **times}


def _check_query(index: OpenIndex, text: str | None, image: Path | None) -> None:
    """Refuse before the model is loaded what cannot be asked."""
    if (text is None) == (image is None):
        raise InputError(
            f"index {index.manifest.name} is asked with one query",
            expected=" or ".join(f"one {modality}" for modality in query_modalities(index.manifest)),
            got="a text and an image" if text is not None else "nothing to look for",
            next_step=f'indexmill search {index.manifest.name} "some text", or --image FILE',
        )
    check_modality(index.manifest, "image" if text is None else "text")


def _write_contact_sheet(target: Path, index: OpenIndex, answer: SearchResults, query_text: str) -> None:
    from indexmill.serve.contact_sheet import render_contact_sheet  # here: only those who want one wait for its template

    folder = target.absolute().parent
    if not folder.is_dir():
        raise InputError(
            "the contact sheet cannot be written", where=str(target), got=f"no folder {folder}", next_step="make the folder first"
        )
    scratch = Scratch(folder)
    try:
        scratch.write_text(target.absolute(), render_contact_sheet(index, answer, query_text))
    finally:
        scratch.close()


def _with_absolute_path(item: dict[str, Any], image_root: str | None) -> dict[str, Any]:
    return {**item, "path": str(Path(image_root) / item["path"])} if image_root and item["path"] else item
