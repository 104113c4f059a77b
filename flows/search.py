"""Asking a snapshot from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from configs.models import EncoderConfig, ValidateConfig
from storage.errors import InputError
from storage.manifests import Manifest
from storage.root import Root
from tasks.checks.images import Limits, UnreadableImage, read_image
from tasks.checks.items import normalised
from tasks.encoders import MODALITIES, identify, load_encoder
from tasks.encoders.encoding import EncodesTextsToo, encode_items
from tasks.indexes.published import PublishedIndex


def search_index(root: str, name: str, *, text: str | None, image: Path | None, k: int) -> dict[str, Any]:
    """The k best items of the live snapshot for a text or an image, with the milliseconds that encoding and searching took."""
    place = Root(root, create=False)
    try:
        index = PublishedIndex(place, name)
        query = _query(index.manifest, text, image)
        start = time.perf_counter()
        vector = _encode(index, query)
        encoded = time.perf_counter()
        searcher = index.searcher
        opened = time.perf_counter()
        scores, ids = searcher.search(vector, min(k, searcher.items))
        searched = time.perf_counter()
        results = _described(index, ids[0], scores[0])
    finally:
        place.close()
    times = {"encode_ms": (encoded - start) * 1000, "open_ms": (opened - encoded) * 1000, "search_ms": (searched - opened) * 1000}
    manifest = index.manifest
    return {"name": name, "snapshot_id": manifest.snapshot_id, "metric": manifest.metric, "results": results, **times}


def _query(manifest: Manifest, text: str | None, image: Path | None) -> Any:
    """The query in the form that the snapshot's encoder takes."""
    asked = [modality for modality, given in (("text", text), ("image", image)) if given is not None]
    if len(asked) != 1 or asked[0] not in _taken(manifest):
        raise InputError(
            f"index {manifest.name} holds {manifest.modality}s, and is asked with one of them",
            got=" and ".join(asked) or "nothing to look for",
            next_step=f"indexmill search {manifest.name} " + ('"some text"' if manifest.modality == "text" else "--image FILE"),
        )
    if image is None:
        if not (query := normalised(text or "")):
            raise InputError("the query is empty", next_step=f'indexmill search {manifest.name} "some text"')
        return query
    try:
        rules = ValidateConfig.model_validate(manifest.config["validate"])
        return read_image(image.read_bytes(), Limits(rules.max_pixels, rules.min_side, rules.max_aspect_ratio))
    except (OSError, UnreadableImage) as problem:
        raise InputError("the query image cannot be read", where=str(image), got=str(problem)) from None


def _taken(manifest: Manifest) -> set[str]:
    """What the index may be asked with: what it holds, and texts where its encoder puts images and texts into one space."""
    return set(MODALITIES[manifest.config["encoder"]["kind"]])


def _encode(index: PublishedIndex, query: Any) -> np.ndarray:
    """float32 (1, dim), by the very encoder that made the snapshot's vectors; another fingerprint is refused."""
    manifest = index.manifest
    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(manifest.config["encoder"])
    precision = manifest.encoder["precision"]
    index.accept(identify(config).of(manifest.holds, precision, config.store).fingerprint)
    encoder = load_encoder(config, precision)
    if isinstance(query, str) and isinstance(encoder, EncodesTextsToo):
        encoder = encoder.texts
    return encode_items(encoder, [query]).vectors


def _described(index: PublishedIndex, ids: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """The items in the order of the ranking: rank, score, item_id, key, label, and the text or the image's path."""
    found = [int(item) for item in ids if item >= 0]
    items = index.items(found)
    ranked = enumerate(zip(found, scores, strict=False), start=1)
    return [{"rank": rank, "score": float(score), **_located(items[item], index.manifest.base)} for rank, (item, score) in ranked]


def _located(item: dict[str, Any], base: str | None) -> dict[str, Any]:
    return {**item, "path": str(Path(base) / item["path"])} if base and item["path"] else item
