"""From rows to vectors: every image once, in order, whatever the memory; and no item spoils another."""

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


class Mean:
    """An encoder of images by their mean grey, that runs out of memory above 4 at once."""

    modality, dim, batch_size, window, decode_size = "image", 2, 32, 32, None

    def preprocess(self, item: Image.Image) -> float:
        return float(np.asarray(item).mean())

    def encode(self, prepared: Sequence[Any], batch_size: int) -> EncodedItems:
        if batch_size > 4:
            raise MemoryError
        return EncodedItems(np.array([[grey + 1, 1] for grey in prepared], np.float32), np.zeros(len(prepared), dtype=bool))


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """100 images, the n-th of grey n."""
    made = []
    for grey in range(100):
        Image.new("RGB", (4, 4), (grey, grey, grey)).save(tmp_path / f"{grey}.png")
        digest = content_digest((tmp_path / f"{grey}.png").read_bytes())
        made.append({"item_id": grey + 1, "path": f"{grey}.png", "text": None, "content_digest": digest})
    return made


def blocks(encoder: Any, rows: list[dict[str, Any]], image_root: Path, advance: Any = lambda items: None) -> list[EncodedWindow]:
    return list(encode_rows(encoder, iter(rows), str(image_root), advance))


def test_no_image_is_lost_or_moved_when_batches_shrink(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """From 32 at once to 4: a hundred vectors, each its own image's, each told once."""
    counted: list[int] = []
    found = blocks(Mean(), rows, tmp_path, counted.append)
    assert [row for block in found for row in block.rows] == rows
    assert np.concatenate([block.encoded.vectors for block in found])[:, 0].tolist() == list(range(1, 101))
    assert sum(counted) == 100
    assert not any(block.issues for block in found)


def test_an_image_that_changed_since_it_was_listed_stops_the_stage(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """A vector under another content's digest would be wrong for ever."""
    Image.new("RGB", (4, 4), "red").save(tmp_path / "50.png")
    with pytest.raises(SourceChanged, match=r"50\.png"):
        blocks(Mean(), rows, tmp_path)


def test_an_item_that_spoils_its_batch_goes_without_and_alone(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """The forward pass fails whenever image 7 is in it: 99 vectors, and one reason that says what the encoder said."""

    class Spoiled(Mean):
        def encode(self, prepared: Sequence[Any], batch_size: int) -> EncodedItems:
            if 7 in prepared:
                raise ValueError("seven is too many")
            return EncodedItems(np.array([[grey + 1, 1] for grey in prepared], np.float32), np.zeros(len(prepared), dtype=bool))

    found = blocks(Spoiled(), rows, tmp_path)
    assert {block.rows[row]["path"]: problem for block in found for row, problem in block.issues.items()} == {
        "7.png": ("encoder_error", "ValueError: seven is too many")
    }
    sound = np.concatenate([np.delete(block.encoded.vectors, list(block.issues), axis=0) for block in found])
    assert sound[:, 0].tolist() == [grey + 1 for grey in range(100) if grey != 7]


def test_an_encoder_that_fails_on_everything_is_broken_and_not_the_items(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Its own exception comes out: a hundred rejects would hide the cause."""

    class Broken(Mean):
        def encode(self, prepared: Sequence[Any], batch_size: int) -> EncodedItems:
            raise ZeroDivisionError("the device is gone")

    with pytest.raises(ZeroDivisionError, match="the device is gone"):
        blocks(Broken(), rows, tmp_path)


def test_vectors_that_cannot_be_searched_are_named_with_their_reason() -> None:
    """By hand: none, infinite, all zero; a zero among others is sound."""
    vectors = np.array([[1, 0], [np.nan, 1], [0, 0], [np.inf, 0], [-1, 2]], np.float32)
    found = find_invalid_vectors(vectors, 2)
    assert {row: reason for row, (reason, _) in found.items()} == {1: "not_finite", 2: "zero_vector", 3: "not_finite"}
    assert {reason for reason, _ in find_invalid_vectors(vectors, 3).values()} == {"wrong_dimension"}
    assert len(find_invalid_vectors(vectors, 3)) == 5
