"""The encode stage: every image once, in order, whatever the memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.digests import content_digest
from storage.errors import IndexmillError, SourceChanged
from tasks.encode import _vectors
from tasks.encoders import Encoded


class Mean:
    """An encoder of images by their mean grey, that runs out of memory above 4 at once."""

    modality, dim, batch_size, window = "image", 2, 32, 32

    def prepare(self, item: Image.Image) -> float:
        return float(np.asarray(item).mean())

    def encode(self, prepared: Sequence[Any], batch_size: int) -> Encoded:
        if batch_size > 4:
            raise MemoryError
        return Encoded(np.array([[grey + 1, 1] for grey in prepared]), np.zeros(len(prepared), dtype=bool))


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """100 images, the n-th of grey n."""
    made = []
    for grey in range(100):
        Image.new("RGB", (4, 4), (grey, grey, grey)).save(tmp_path / f"{grey}.png")
        digest = content_digest((tmp_path / f"{grey}.png").read_bytes())
        made.append({"item_id": grey + 1, "path": f"{grey}.png", "text": None, "content_digest": digest})
    return made


def test_no_image_is_lost_or_moved_when_batches_shrink(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """From 32 at once to 4: a hundred vectors, each its own image's."""
    counted: list[int] = []
    vectors = _vectors(Mean(), rows, str(tmp_path), counted.append)  # type: ignore[arg-type]
    assert vectors[:, 0].tolist() == list(range(1, 101))
    assert sum(counted) == 100


def test_an_image_that_changed_since_it_was_listed_stops_the_stage(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A vector under another content's digest would be wrong for ever."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "50.png")
    with pytest.raises(SourceChanged, match=r"50\.png"):
        _vectors(Mean(), rows, str(tmp_path), lambda finished: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0])
def test_a_vector_that_cannot_be_searched_is_refused_by_its_item(bad: float, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Not a number, infinite, or all zero."""

    class Poisoned(Mean):
        def encode(self, prepared: Sequence[Any], batch_size: int) -> Encoded:
            encoded = super().encode(prepared, batch_size)
            encoded.vectors[encoded.vectors[:, 0] == 8] = bad
            return encoded

    with pytest.raises(IndexmillError, match=r"7\.png"):
        _vectors(Poisoned(), rows, str(tmp_path), lambda finished: None)  # type: ignore[arg-type]
