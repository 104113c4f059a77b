"""`open_index`: a snapshot asked from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexmill.serve import OpenIndex, open_index
from indexmill.serve.queries import InvalidQuery
from indexmill.storage.errors import DamagedFile, InputError
from tests.serve.conftest import SENTENCES


@pytest.fixture(scope="module")
def sentences(published: Path) -> OpenIndex:
    return open_index(published, "sentences")


@pytest.fixture(scope="module")
def pictures(published: Path) -> OpenIndex:
    return open_index(published, "demo-images")


def test_a_text_finds_what_is_about_the_same(sentences: OpenIndex) -> None:
    """By meaning, whichever words; ranks from 1, scores falling, distance as 1 - score; a text of the index finds itself with score 1."""
    answer = sentences.search(texts=["a boat on the water", SENTENCES[5][1]], k=3)
    assert [{result.label for result in answer.results[0][:2]}, answer.results[1][0].text] == [{"sea"}, SENTENCES[5][1]]
    assert [result.rank for result in answer.results[0]] == [1, 2, 3]
    assert answer.results[1][0].score == pytest.approx(1, abs=1e-5)
    for row in answer.results:
        assert [result.score for result in row] == sorted((result.score for result in row), reverse=True)
        assert all(result.distance == pytest.approx(1 - result.score, abs=1e-6) for result in row)
    assert answer.snapshot_id == sentences.manifest.snapshot_id


def test_a_picture_is_taken_as_bytes_path_or_image_and_finds_itself(pictures: OpenIndex, digits: Path) -> None:
    """All three give the same answer."""
    path = sorted(digits.rglob("*.png"))[17]
    answer = pictures.search(images=[path, str(path), path.read_bytes(), Image.open(path)], k=4)
    assert answer.results[0][0].key == path.relative_to(digits).as_posix()
    assert [[result.item_id for result in row] for row in answer.results[1:]] == [[result.item_id for result in answer.results[0]]] * 3


def test_an_item_is_asked_by_its_id_and_comes_first(sentences: OpenIndex) -> None:
    """With its own vector: the answer is that of the same vector asked as numbers, however long it is made."""
    every = sentences.search(texts=["anything"], k=100).results[0]
    assert len(every) == len(SENTENCES)
    ids = [result.item_id for result in every]
    by_item = sentences.search(items=ids, k=2)
    assert [row[0].item_id for row in by_item.results] == ids
    by_vector = sentences.search(vectors=7.5 * sentences.reconstruct_vectors(ids), k=2)
    assert [[result.item_id for result in row] for row in by_vector.results] == [
        [result.item_id for result in row] for row in by_item.results
    ]


def test_a_filter_leaves_only_what_it_names_and_all_of_that(sentences: OpenIndex) -> None:
    """By label, by several keys, by side; the order among those left is that of the whole ranking; nothing left is an empty answer."""
    whole = sentences.search(texts=["a boat on the water"], k=100).results[0]
    for filters, kept in (
        ({"label": "court"}, [result for result in whole if result.label == "court"]),
        ({"where": {"key": ["s00", "s10", "s99"]}}, [result for result in whole if result.key in ("s00", "s10")]),
        ({"where": {"label": "sky"}, "label": None}, [result for result in whole if result.label == "sky"]),
        ({"label": "no such label"}, []),
    ):
        found = sentences.search(texts=["a boat on the water"], k=100, **filters).results[0]  # type: ignore[arg-type]
        assert [result.key for result in found] == [result.key for result in kept]
    sides = [sentences.search(texts=["x"], k=100, where={"side": side}).results[0] for side in ("database", "query")]
    assert (len(sides[0]), len(sides[1])) == (sentences.manifest.database, sentences.manifest.query)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({}, "one kind"), ({"texts": ["a"], "items": [1]}, "one kind"), ({"texts": [" \n"]}, "empty"),
        ({"images": [b"GIF8"]}, "holds texts"),
        ({"items": [1]}, "does not hold"), ({"vectors": [[1.0] * 383]}, "do not fit"), ({"vectors": [[0.0] * 384]}, "zero"),
        ({"vectors": [[float("nan")] * 384]}, "not finite"), ({"vectors": [[1e300] * 384]}, "not finite"),
        ({"vectors": [["x"]]}, "no vectors"),
        ({"vectors": [1.0] * 384}, "do not fit"), ({"texts": ["a"], "k": 0}, "k is too small"),
        ({"texts": ["a"], "where": {"path": "x"}}, "chosen"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said(question: dict[str, object], said: str, sentences: OpenIndex) -> None:
    """As BadQuery, whose text tells no path."""
    with pytest.raises(InvalidQuery, match=said) as caught:
        sentences.search(**question)  # type: ignore[arg-type]
    assert "/" not in str(caught.value)


def test_a_large_number_in_a_vector_is_no_overflow(sentences: OpenIndex) -> None:
    """Lengths are taken in float64: a vector of 1e30s is a direction like any other."""
    ones = sentences.search(vectors=[[1.0] * 384], k=5).results[0]
    assert [result.key for result in sentences.search(vectors=np.full((1, 384), 1e30), k=5).results[0]] == [result.key for result in ones]


@pytest.mark.parametrize("name", ["items.parquet", "shard-00000.faiss", "report/report.html"])
def test_a_changed_file_is_found_on_opening(name: str, root_copy: Path) -> None:
    """Rows, codes or report: one changed byte and the snapshot does not open."""
    path = next((root_copy / "indexes" / "sentences" / "snapshots").glob(f"*/{name}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="does not match its record"):
        open_index(root_copy, "sentences")


def test_opening_leaves_no_file_behind_and_other_names_are_refused(root_copy: Path) -> None:
    """The mapped copy of the rows has no name; unknown indexes, snapshots and roots are told apart."""
    index = open_index(root_copy, "sentences")
    assert list((root_copy / "tmp").glob("*")) == []
    assert len(index.items) == len(SENTENCES)
    for arguments, said in (((root_copy, "other"), "has not been published"), ((root_copy, "sentences", "00009-x"), "no snapshot"),
                            ((root_copy / "nowhere", "sentences"), "root does not exist"), ((root_copy, "../x"), "not a valid index name")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            open_index(*arguments)  # type: ignore[arg-type]
