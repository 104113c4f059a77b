"""`open_index`: search a snapshot from Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from indexmill.serve import OpenIndex, open_index
from indexmill.serve.encoder import check_fingerprint
from indexmill.serve.queries import InvalidQuery
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.root import Root
from tests.serve.conftest import SENTENCES
from tests.serve.publish_helper import publish_again


@pytest.fixture(scope="module")
def sentences(published: Path) -> OpenIndex:
    return open_index(published, "sentences")


@pytest.fixture(scope="module")
def digit_index(published: Path) -> OpenIndex:
    return open_index(published, "demo-images")


def test_a_text_finds_texts_with_a_similar_meaning(sentences: OpenIndex) -> None:
    """Ranks start at 1, scores fall, distance is 1 - score, and an indexed text finds itself with score 1."""
    answer = sentences.search(texts=["a boat on the water", SENTENCES[5][1]], k=3)
    assert [{result.label for result in answer.results[0][:2]}, answer.results[1][0].text] == [{"sea"}, SENTENCES[5][1]]
    assert [result.rank for result in answer.results[0]] == [1, 2, 3]
    assert answer.results[1][0].score == pytest.approx(1, abs=1e-5)
    for row in answer.results:
        assert [result.score for result in row] == sorted((result.score for result in row), reverse=True)
        assert all(result.distance == pytest.approx(1 - result.score, abs=1e-6) for result in row)
    assert answer.snapshot_id == sentences.manifest.snapshot_id


def test_an_image_may_be_bytes_a_path_or_a_pillow_image(digit_index: OpenIndex, digits: Path) -> None:
    """All give the same results, and an indexed image finds itself."""
    path = sorted(digits.rglob("*.png"))[17]
    answer = digit_index.search(images=[path, str(path), path.read_bytes(), Image.open(path)], k=4)
    assert answer.results[0][0].key == path.relative_to(digits).as_posix()
    assert [[result.item_id for result in row] for row in answer.results[1:]] == [[result.item_id for result in answer.results[0]]] * 3


def test_an_item_used_as_a_query_comes_first(sentences: OpenIndex) -> None:
    """The results are those of its vector passed as numbers, whatever its length."""
    all_results = sentences.search(texts=["anything"], k=100).results[0]
    assert len(all_results) == len(SENTENCES)
    ids = [result.item_id for result in all_results]
    by_item = sentences.search(items=ids, k=2)
    assert [row[0].item_id for row in by_item.results] == ids
    by_vector = sentences.search(vectors=7.5 * sentences.reconstruct_vectors(ids), k=2)
    assert [[result.item_id for result in row] for row in by_vector.results] == [
        [result.item_id for result in row] for row in by_item.results
    ]


def test_a_filter_returns_exactly_the_matching_items(sentences: OpenIndex) -> None:
    """By label, several keys or side; matching items keep their order, and no match gives no results."""
    whole = sentences.search(texts=["a boat on the water"], k=100).results[0]
    for filters, expected in (
        ({"label": "court"}, [result for result in whole if result.label == "court"]),
        ({"where": {"key": ["s00", "s10", "s99"]}}, [result for result in whole if result.key in ("s00", "s10")]),
        ({"where": {"label": "sky"}, "label": None}, [result for result in whole if result.label == "sky"]),
        ({"label": "no such label"}, []),
    ):
        filtered = sentences.search(texts=["a boat on the water"], k=100, **filters).results[0]  # type: ignore[arg-type]
        assert [result.key for result in filtered] == [result.key for result in expected]
    sides = [sentences.search(texts=["x"], k=100, where={"side": side}).results[0] for side in ("database", "query")]
    assert (len(sides[0]), len(sides[1])) == (sentences.manifest.database, sentences.manifest.query)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "exactly one kind"),
        ({"texts": ["a"], "items": [1]}, "exactly one kind"),
        ({"texts": [" \n"]}, "empty"),
        ({"images": [b"GIF8"]}, "does not take image queries"),
        ({"items": [1]}, "not in the index"),
        ({"vectors": [[1.0] * 383]}, "do not fit"),
        ({"vectors": [[0.0] * 384]}, "zero"),
        ({"vectors": [[float("nan")] * 384]}, "not finite"),
        ({"vectors": [[1e300] * 384]}, "not finite"),
        ({"vectors": [["x"]]}, "not valid"),
        ({"vectors": [1.0] * 384}, "do not fit"),
        ({"texts": ["a"], "k": 0}, "k is too small"),
        ({"texts": ["a"], "where": {"path": "x"}}, "cannot be filtered"),
    ],
)
def test_an_invalid_query_says_what_is_wrong(query: dict[str, object], message: str, sentences: OpenIndex) -> None:
    """It raises InvalidQuery, whose message contains no path."""
    with pytest.raises(InvalidQuery, match=message) as caught:
        sentences.search(**query)  # type: ignore[arg-type]
    assert "/" not in str(caught.value)


def test_large_numbers_in_a_vector_do_not_overflow(sentences: OpenIndex) -> None:
    """Norms are computed in float64, so a vector of 1e30s has a direction like any other."""
    ones = sentences.search(vectors=[[1.0] * 384], k=5).results[0]
    assert [result.key for result in sentences.search(vectors=np.full((1, 384), 1e30), k=5).results[0]] == [result.key for result in ones]


@pytest.mark.parametrize("name", ["items.parquet", "shard-00000.faiss", "report/report.html"])
def test_a_changed_file_is_detected_on_opening(name: str, root_copy: Path) -> None:
    """One changed byte in rows, codes or report, and the snapshot does not open."""
    path = next((root_copy / "indexes" / "sentences" / "snapshots").glob(f"*/{name}"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="does not match its record"):
        open_index(root_copy, "sentences")


def test_opening_leaves_no_file_behind_and_unknown_names_are_errors(root_copy: Path) -> None:
    """The mapped copy of the rows is unlinked; unknown indexes, snapshots and roots have different errors."""
    index = open_index(root_copy, "sentences")
    assert list((root_copy / "tmp").glob("*")) == []
    assert len(index.items) == len(SENTENCES)
    for arguments, message in (
        ((root_copy, "other"), "has not been published"),
        ((root_copy, "sentences", "00009-x"), "no snapshot"),
        ((root_copy / "nowhere", "sentences"), "root does not exist"),
        ((root_copy, "../x"), "not a valid index name"),
    ):
        with pytest.raises(InputError, match=message):
            open_index(*arguments)  # type: ignore[arg-type]


def test_stored_embeddings_find_their_own_items(digit_index: OpenIndex, published: Path) -> None:
    """Every item finds itself first, under its own key, with score 1."""
    root = Root(published, create=False)
    store = EmbeddingStore(root, digit_index.manifest.fingerprint)
    rows = [row for path in store.list_parts() for row in pq.read_table(path).to_pylist()][:7]
    answer = digit_index.search(vectors=np.array([row["embedding"] for row in rows], np.float32), k=3)
    assert [results[0].item_id for results in answer.results] == [row["item_id"] for row in rows]
    items = digit_index.items.get_rows([row["item_id"] for row in rows])
    assert [results[0].key for results in answer.results] == [item and item["key"] for item in items]
    assert all(len(results) == 3 and results[0].score == pytest.approx(1, abs=1e-5) for results in answer.results)


def test_vectors_of_another_encoder_are_refused(digit_index: OpenIndex) -> None:
    """Another fingerprint or another dimension is an error; scores would be meaningless."""
    check_fingerprint(digit_index.manifest, digit_index.manifest.fingerprint)
    with pytest.raises(InputError, match="meaningless"):
        check_fingerprint(digit_index.manifest, "0" * 32)
    libraries = {"torch": "2.0", "acme": "1.5"}
    manifest = digit_index.manifest.model_copy(update={"encoder": {"libraries": libraries}})
    with pytest.raises(InputError, match=r"with acme 1\.5, torch 2\.0\n"):
        check_fingerprint(manifest, "0" * 32)
    with pytest.raises(InvalidQuery, match="do not fit"):
        digit_index.search(vectors=np.eye(3, 1279))


def test_an_open_index_keeps_its_snapshot_until_it_is_closed(root_copy: Path) -> None:
    """Retention removes a replaced snapshot only after `close` or the end of the `with` block."""
    with open_index(root_copy, "sentences") as index:
        publish_again(root_copy, "sentences", keep=1)
        assert (index.snapshot_dir / "manifest.json").exists()
        assert index.search(texts=["a boat"], k=1).results[0]
    publish_again(root_copy, "sentences", keep=1)
    assert not index.snapshot_dir.exists()
