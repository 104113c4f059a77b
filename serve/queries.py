"""Check queries and convert them to the form that the snapshot's encoder and index take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from indexmill.configs.models import ValidateConfig
from indexmill.storage.errors import InputError
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import Modality
from indexmill.tasks.encoding import list_modalities
from indexmill.tasks.validation.image_formats import describe_readable_formats
from indexmill.tasks.validation.image_reader import ImageLimits, UnreadableImage, read_image
from indexmill.tasks.validation.text_normalization import normalize_text

QueryImage = bytes | str | Path | Image.Image


class InvalidQuery(InputError):
    """A query that cannot be answered as it is.

    Its message contains no server path, so the HTTP service may show it to clients.
    """


def query_modalities(manifest: Manifest) -> tuple[Modality, ...]:
    """Return the modalities that the snapshot's encoder takes; an image-text encoder maps both into one space."""
    return list_modalities({"kind": manifest.config["encoder"]["kind"], **manifest.encoder})


def check_modality(manifest: Manifest, modality: Modality) -> None:
    """Raise InvalidQuery for a modality that the snapshot's encoder does not take."""
    accepted = query_modalities(manifest)
    if modality not in accepted:
        example = '"some text"' if "text" in accepted else "--image FILE"
        raise InvalidQuery(
            f"index {manifest.name} does not take {modality} queries",
            expected=" or ".join(accepted),
            got=modality,
            next_step=f"indexmill search {manifest.name} {example}",
        )


def read_query_text(text: str) -> str:
    """Normalize a text as those in the index were: Unicode NFC, single spaces."""
    if not (query := normalize_text(text)):
        raise InvalidQuery("the query is empty", expected="a word or a sentence")
    return query


def read_query_image(
    manifest: Manifest, image: QueryImage, max_pixels: float = float("inf"), decode_size: tuple[int, int] | None = None
) -> Image.Image:
    """Read an image as RGB, within the limits that the index's own images were checked against.

    Args:
        manifest: The snapshot's manifest, which holds those limits.
        image: A Pillow image, the bytes of an image file, or its path.
        max_pixels: A further limit on width x height.
        decode_size: The size that the encoder needs; a JPEG may be decoded at a reduced scale that still covers it.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    rules = ValidateConfig.model_validate(manifest.config["validate"])
    limits = ImageLimits(min(rules.max_pixels, max_pixels), rules.min_side, rules.max_aspect_ratio)
    content = image if isinstance(image, bytes) else read_image_file(image)
    try:
        return read_image(content, limits, decode_size)
    except UnreadableImage as error:
        raise InvalidQuery(
            "the query image cannot be read",
            expected=f"an image ({describe_readable_formats()})",
            got=str(error),
            next_step="choose another image, or convert it to PNG or JPEG",
        ) from None


def read_image_file(path: str | Path) -> bytes:
    """Read the file of a query image. Raises InputError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            "the query image cannot be read",
            where=str(path),
            expected="an image file that this user can read",
            got=error.strerror or str(error),
            next_step="correct the path, or choose another image",
        ) from None


def read_query_vectors(manifest: Manifest, vectors: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Convert vectors to float32 (n, dim), scaled to unit length if the metric is cosine.

    Raises:
        InvalidQuery: Wrong dimension, or a vector that is not finite, or zero where the metric is cosine.
    """
    try:
        with np.errstate(over="ignore"):
            queries = np.ascontiguousarray(vectors, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        raise InvalidQuery("the vectors are not valid", expected="lists of numbers, all of the same length") from None
    if queries.ndim != 2 or queries.shape[1] != manifest.dim:
        got = f"{queries.shape[1]} numbers" if queries.ndim == 2 else f"an array with {queries.ndim} dimensions"
        raise InvalidQuery("the vectors do not fit the index", expected=f"{manifest.dim} numbers per vector", got=got)
    squared_norms = np.einsum("nd,nd->n", queries, queries)
    if not (np.isfinite(squared_norms) & (squared_norms > 1e-30)).all():  # rare: the squares over- or underflow float32
        squared_norms = np.einsum("nd,nd->n", queries, queries, dtype=np.float64)
    norms = np.sqrt(squared_norms)  # not finite if any number is not
    if not np.isfinite(norms).all():
        raise InvalidQuery("a vector contains a number that is not finite", expected="finite numbers within the range of float32")
    if manifest.metric != "cosine":
        return queries
    if not norms.all():
        raise InvalidQuery("a vector is zero", expected="a nonzero vector, because the metric is cosine")
    return (queries / norms[:, None]).astype(np.float32, copy=False)
