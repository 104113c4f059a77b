"""What an encoder, a source or a measure of one's own looks like. An extension need not import Indexmill to fit them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from indexmill.storage.records import Modality


class PythonEncoder(Protocol):
    """A loaded model. With modality text it has `encode_texts`; with modality image `preprocess_image` and `encode_images`.

    The target is called with `encoder.options`, and with `precision` and `weights` (paths) if it has parameters of these names.
    """

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    def encode_texts(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode one batch: float (n, dim), in order. A MemoryError, or torch's, halves the batch."""
        ...

    def preprocess_image(self, image: Image.Image, /) -> Any:
        """Return what `encode_images` takes for one RGB image, such as pixels at the model's size. Several threads call this at once."""
        ...

    def encode_images(self, inputs: Sequence[Any], /) -> np.ndarray:
        """Encode one batch of preprocessed images: float (n, dim), in order."""
        ...


class PythonSource(Protocol):
    """A data set. The target is called with `dataset.options`."""

    modality: Modality  # "text" or "image"
    labeled: bool  # whether rows have a label
    image_root: str | Path | None  # the folder that image paths are relative to; None for texts

    def compute_version(self) -> str | None:
        """Return what changes whenever a row or an image may have changed, such as a revision; it should be cheap.

        With None, all rows are read before every build, to see whether they have changed.
        """
        ...

    def iterate_batches(self) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Yield the rows in batches, in any order: lists of mappings, or Arrow record batches.

        A row has a unique `key`, and `text` (texts) or `path` (images). It may have `caption` (images), `label`, and `split`.
        """
        ...


@dataclass(frozen=True)
class Rankings:
    """The first max(evaluation.k) results of each of n queries, as a user gets them; arrays of text hold None where there is none.

    query_set: the name of a further set of queries, else empty. query_keys, query_labels: text (n,). keys, labels: text (n, k).
    scores: float32 (n, k). judged: bool (n,), the queries with known relevance. relevant: bool (n, k), False where not judged.
    """

    query_set: str
    query_keys: np.ndarray
    query_labels: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    judged: np.ndarray
    relevant: np.ndarray


class Measure(Protocol):
    """A function that computes metrics."""

    def __call__(self, rankings: Rankings, /) -> Mapping[str, float | np.ndarray]:
        """Return metric -> a number, or one per query (float (n,), NaN where it has none), whose mean becomes the metric.

        Names consist of lower-case letters, digits and underscores, and are those of no other metric.
        """
        ...
