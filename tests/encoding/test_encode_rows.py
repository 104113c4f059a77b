"""From rows to vectors: every image once and in order, and no bad item affects another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from indexmill.storage.digests import content_digest
from indexmill.storage.errors import SourceChanged
from indexmill.tasks.encoding import EncodedItems
from indexmill.tasks.encoding.row_batches import EncodedWindow, encode_rows, find_invalid_vectors
from indexmill.tasks.progress import ignore_progress


class MeanGrayEncoder:
    """Encodes an image as its mean gray; runs out of memory above 4 images at once."""

    modality, dim, batch_size, window, decode_size = "image", 2, 32, 32, None

    def preprocess(self, item: Image.Image) -> float:
        return float(np.asarray(item).mean())

    def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
        if batch_size > 4:
            raise MemoryError
        return EncodedItems(np.array([[gray + 1, 1] for gray in inputs], np.float32), np.zeros(len(inputs), dtype=bool))


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """100 images, the n-th with gray value n."""
    rows = []
    for gray in range(100):
        Image.new("RGB", (4, 4), (gray, gray, gray)).save(tmp_path / f"{gray}.png")
        digest = content_digest((tmp_path / f"{gray}.png").read_bytes())
        rows.append({"item_id": gray + 1, "path": f"{gray}.png", "text": None, "content_digest": digest})
    return rows


def encode_all(encoder: Any, rows: list[dict[str, Any]], image_root: Path, advance: Any = ignore_progress) -> list[EncodedWindow]:
    return list(encode_rows(encoder, iter(rows), str(image_root), advance))


def test_every_image_keeps_its_vector_when_batches_shrink(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """From 32 at once down to 4: a hundred vectors in order, and progress counts each image once."""
    counted: list[int] = []
    windows = encode_all(MeanGrayEncoder(), rows, tmp_path, counted.append)
    assert [row for window in windows for row in window.rows] == rows
    assert np.concatenate([window.encoded.vectors for window in windows])[:, 0].tolist() == list(range(1, 101))
    assert sum(counted) == 100
    assert not any(window.issues for window in windows)


def test_an_image_that_changed_since_it_was_listed_stops_the_stage(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A vector stored under another content's digest would stay wrong forever."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "50.png")
    with pytest.raises(SourceChanged, match=r"50\.png"):
        encode_all(MeanGrayEncoder(), rows, tmp_path)


def test_only_the_item_that_breaks_its_batch_is_rejected(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """The forward pass fails whenever image 7 is in it: 99 vectors, and one reject with the encoder's error."""

    class FailsOnSeven(MeanGrayEncoder):
        def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
            if 7 in inputs:
                raise ValueError("seven is too many")
            return EncodedItems(np.array([[gray + 1, 1] for gray in inputs], np.float32), np.zeros(len(inputs), dtype=bool))

    windows = encode_all(FailsOnSeven(), rows, tmp_path)
    assert {window.rows[row]["path"]: reason for window in windows for row, reason in window.issues.items()} == {
        "7.png": ("encoder_error", "ValueError: seven is too many")
    }
    valid = np.concatenate([np.delete(window.encoded.vectors, list(window.issues), axis=0) for window in windows])
    assert valid[:, 0].tolist() == [gray + 1 for gray in range(100) if gray != 7]


def test_an_encoder_that_fails_on_every_item_raises_its_own_error(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A hundred rejects would hide the cause."""

    class Broken(MeanGrayEncoder):
        def encode(self, inputs: Sequence[Any], batch_size: int) -> EncodedItems:
            raise ZeroDivisionError("the device is gone")

    with pytest.raises(ZeroDivisionError, match="the device is gone"):
        encode_all(Broken(), rows, tmp_path)


def test_vectors_that_cannot_be_searched_have_a_reason() -> None:
    """NaN, infinite, all zero; a zero among other numbers is valid."""
    vectors = np.array([[1, 0], [np.nan, 1], [0, 0], [np.inf, 0], [-1, 2]], np.float32)
    issues = find_invalid_vectors(vectors, 2)
    assert {row: reason for row, (reason, _) in issues.items()} == {1: "not_finite", 2: "zero_vector", 3: "not_finite"}
    assert {reason for reason, _ in find_invalid_vectors(vectors, 3).values()} == {"wrong_dimension"}
    assert len(find_invalid_vectors(vectors, 3)) == 5
