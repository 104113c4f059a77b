"""Remember which hub files the weights tags of open_clip and timm name, so that only the first use of a tag imports the library.

What a tag names depends on the library's version alone. The records are in the hub's cache, beside the files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import constants

from indexmill.storage import atomic
from indexmill.storage.digests import json_digest
from indexmill.storage.records import FrozenModel, read_record


class TaggedWeights(FrozenModel):
    """Where weights are on the hub.

    repository: ORG/NAME.
    files: The names that the weights may have, in order of preference.
    tag: The library's name for the weights; for the default ones that of the library's choice.
    """

    repository: str
    files: tuple[str, ...]
    tag: str


def resolve_tag(library: str, architecture: str, tag: str | None, resolve: Callable[[], TaggedWeights]) -> TaggedWeights:
    """Return what a tag names, from the record if there is one.

    Args:
        library: The distribution that defines the tag.
        architecture: The library's name of the architecture.
        tag: The weights; None for the library's default ones.
        resolve: Asks the library. Its errors are passed on.
    """
    folder = Path(constants.HF_HUB_CACHE)
    path = folder / f"indexmill-tag-{json_digest([library, version(library), architecture, tag])[:32]}.json"
    if (record := read_record(path, TaggedWeights)) is not None:
        return record
    record = resolve()
    with suppress(OSError):  # a cache that others fill may be read-only
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            temporary = Path(staging) / path.name
            temporary.write_text(record.model_dump_json(), encoding="utf-8")
            atomic.commit(temporary, path)
    return record
