"""What may be asked, and bringing it into the form that the snapshot's encoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from indexmill.configs.models import ValidateConfig
from indexmill.storage.errors import InputError
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import Modality
from indexmill.tasks.encoding import MODALITIES_BY_KIND
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_image
from indexmill.tasks.validation.text_normalization import normalize_text

QueryImage = bytes | str | Path | Image.Image


class InvalidQuery(InputError):
    """A question that cannot be answered as it is. Nothing in it tells where anything lies, so it may be shown to whoever asked."""


def query_modalities(manifest: Manifest) -> tuple[Modality, ...]:
    """What the index may be asked with: what its encoder takes. One of texts and images puts both into one space."""
    return MODALITIES_BY_KIND[manifest.config["encoder"]["kind"]]


def check_modality(manifest: Manifest, modality: Modality) -> None:
    """Raise BadQuery for a modality that the snapshot's encoder does not take."""
    if modality not in query_modalities(manifest):
        example = '"some text"' if "text" in query_modalities(manifest) else "--image FILE"
        raise InvalidQuery(
            f"index {manifest.name} holds {manifest.modality}s, and is asked with one of them",
            expected=" or ".join(query_modalities(manifest)),
            got=modality,
            next_step=f"indexmill search {manifest.name} {example}",
        )


def read_query_text(text: str) -> str:
    """The text as those of the index were encoded: Unicode NFC, single spaces."""
    if not (query := normalize_text(text)):
        raise InvalidQuery("the query is empty", expected="a text with a letter in it", next_step="ask with a word or a sentence")
    return query


def read_query_image(
    manifest: Manifest, picture: QueryImage, max_pixels: float = float("inf"), decode_size: tuple[int, int] | None = None
) -> Image.Image:
    """An RGB image of bytes or a file, held to the limits that the index's own images were held to, and to `max_pixels`."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    rules = ValidateConfig.model_validate(manifest.config["validate"])
    limits = ImageLimits(min(rules.max_pixels, max_pixels), rules.min_side, rules.max_aspect_ratio)
    try:
        content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        return read_image(content, limits, decode_size)
    except OSError as problem:
        raise InputError("the query image cannot be read", where=str(picture), got=problem.strerror or str(problem)) from None
    except UnreadableImage as problem:
        raise InvalidQuery("the query image cannot be read", expected="a JPEG, PNG, WebP, BMP, GIF or TIFF", got=str(problem)) from None


def read_query_vectors(manifest: Manifest, vectors: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """float32 (n, dim); of unit length where the metric is cosine. BadQuery for another length, and for what is not finite or zero."""
    try:
        with np.errstate(over="ignore"):
            queries = np.ascontiguousarray(vectors, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise InvalidQuery("these are no vectors", expected="lists of numbers, all of one length") from None
    if queries.ndim != 2 or queries.shape[1] != manifest.dim:
        got = f"{queries.shape[1]} numbers" if queries.ndim == 2 else f"{queries.ndim} dimensions"
        raise InvalidQuery("these vectors do not fit the index", expected=f"{manifest.dim} numbers a vector", got=got)
    squares = np.einsum("nd,nd->n", queries, queries)
    if not (np.isfinite(squares) & (squares > 1e-30)).all():  # rarely: the square of a large or tiny number does not fit into float32
        squares = np.einsum("nd,nd->n", queries, queries, dtype=np.float64)
    lengths = np.sqrt(squares)  # not finite when any number is not
    if not np.isfinite(lengths).all():
        raise InvalidQuery("a vector holds a number that is not finite", expected="finite numbers within the range of float32")
    if manifest.metric != "cosine":
        return queries
    if not lengths.all():
        raise InvalidQuery("a vector is zero", expected="a length above zero, since the metric is the cosine")
    return (queries / lengths[:, None]).astype(np.float32, copy=False)
