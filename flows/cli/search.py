"""Search a snapshot from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from indexmill.serve import OpenIndex, SearchResults, open_index
from indexmill.serve.queries import InvalidQuery, check_modality, query_modalities, read_image_file, read_query_image
from indexmill.storage.atomic import Scratch
from indexmill.storage.contents import join_location
from indexmill.storage.errors import InputError
from indexmill.storage.store import FolderStore


def search_index(
    root: str,
    name: str,
    *,
    text: str | None,
    image: Path | None,
    k: int,
    label: str | None = None,
    snapshot: str | None = None,
    show: Path | None = None,
) -> dict[str, Any]:
    """Search a snapshot for a text or an image.

    Args:
        root: The directory that holds everything.
        name: The index.
        text: The text to search for; None if an image is given.
        image: The image file to search for; None if a text is given.
        k: The number of results.
        label: Return only items with this label.
        snapshot: The snapshot to search; the live one by default.
        show: Where to write an HTML page with the results.

    Returns: What `indexmill search --json` prints: the results, best first, and the milliseconds of opening, loading,
    encoding and searching.
    """
    start = time.perf_counter()
    index = open_index(root, name, snapshot)
    opened_at = time.perf_counter()
    _check_query(index, text, image)
    images = None if image is None else [_read_image(index, image)]
    index.encoder.load("image" if text is None else "text")
    loaded_at = time.perf_counter()
    answer = index.search(texts=None if text is None else [text], images=images, k=k, label=label)
    if show is not None:
        _write_contact_sheet(show, index, answer, f"like {image.name}" if image else text or "")
    return {
        "name": name,
        "snapshot_id": answer.snapshot_id,
        "metric": answer.metric,
        "label": label,
        "results": [_with_absolute_path(result._asdict(), index.manifest.image_root) for result in answer.results[0]],
        "open_ms": (opened_at - start) * 1000,
        "load_ms": (loaded_at - opened_at) * 1000,
        "encode_ms": answer.encode_ms,
        "search_ms": answer.search_ms,
    }


def _check_query(index: OpenIndex, text: str | None, image: Path | None) -> None:
    """Reject invalid queries before the model is loaded."""
    if (text is None) == (image is None):
        modalities = query_modalities(index.manifest)
        raise InputError(
            "a search needs exactly one query",
            where=f"index {index.manifest.name}",
            expected=" or ".join(f"one {modality}" for modality in modalities),
            got="a text and an image" if text is not None else "no query",
            next_step=f"indexmill search {index.manifest.name} " + ('"some text"' if "text" in modalities else "--image FILE"),
        )
    check_modality(index.manifest, "image" if text is None else "text")


def _read_image(index: OpenIndex, path: Path) -> bytes:
    """Read the query image, and check it before the model is loaded. It is read once, because it may be a pipe."""
    content = read_image_file(path)
    try:
        read_query_image(index.manifest, content)
    except InvalidQuery as error:
        error.where = str(path)
        raise
    return content


def _write_contact_sheet(target: Path, index: OpenIndex, answer: SearchResults, query_text: str) -> None:
    from indexmill.serve.contact_sheet import render_contact_sheet  # its template engine is slow to import

    folder = target.absolute().parent
    if not folder.is_dir():
        raise InputError(
            "the page of results cannot be written", where=str(target), got=f"no folder {folder}", next_step="create the folder first"
        )
    scratch = Scratch(folder, FolderStore(folder))
    try:
        scratch.write_text(target.absolute(), render_contact_sheet(index, answer, query_text))
    finally:
        scratch.close()


def _with_absolute_path(item: dict[str, Any], image_root: str | None) -> dict[str, Any]:
    return {**item, "path": join_location(image_root, item["path"])} if image_root and item["path"] else item
