"""The embedding store returns each item's vector and plans what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.storage import parquet
from indexmill.storage.digests import content_digest
from indexmill.storage.embedding_store import REJECTED_SCHEMA, EmbeddingStore, open_vectors, shorten_vectors
from indexmill.storage.errors import DamagedFile
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from tests.storage.embedding_parts import add_vectors

SCHEMA = pa.schema({"item_id": pa.int64(), "content_digest": pa.string(), "text": pa.string(), "path": pa.string(), "side": pa.string()})


def write_items(root: Root, contents: dict[int, str], sides: dict[int, str] | None = None) -> Path:
    """Write an items table. contents: item id -> text."""
    rows = [
        {
            "item_id": item,
            "content_digest": content_digest(text.encode()),
            "text": text,
            "path": None,
            "side": (sides or {}).get(item, "database"),
        }
        for item, text in contents.items()
    ]
    path = root.path / "items.parquet"
    parquet.write_parquet(path, SCHEMA, [pa.RecordBatch.from_pylist(rows, schema=SCHEMA)])
    return path


def make_embedding_set(root: Root, store: EmbeddingStore, items: Path) -> EmbeddingSet:
    ref = root.make_ref(items)
    return EmbeddingSet(
        digest="d",
        files=(ref, *store.find_refs(items)),
        split="s",
        modality="text",
        fingerprint=store.folder.name,
        encoder={},
        dim=store.dim,
        items=ref,
        rejects=None,
        **dict.fromkeys(("database", "query", "encoded", "reused", "rejected", "truncated"), 0),
    )


def list_missing(store: EmbeddingStore, items: Path) -> list[str]:
    plan = store.root.path / "plan.parquet"
    store.write_encode_plan(items, 2, plan)
    return [row["text"] for row in pq.read_table(plan).to_pylist()]


def test_each_content_without_a_vector_is_missing_once(root: Root) -> None:
    """Two items with equal content need one vector, and a stored content needs none."""
    store = EmbeddingStore(root, "f")
    items = write_items(root, {1: "a", 2: "b", 3: "a", 4: "c"})
    assert sorted(list_missing(store, items)) == ["a", "b", "c"]
    assert store.count_missing(items) == 3
    add_vectors(store, [2], [content_digest(b"b")], np.ones((1, 4)))
    assert sorted(list_missing(store, items)) == ["a", "c"]


def test_blocks_give_each_item_the_vector_of_its_content_by_item_id(root: Root) -> None:
    """It does not matter which part holds the vector."""
    store = EmbeddingStore(root, "f")
    items = write_items(root, {9: "b", 1: "a", 5: "b", 7: "q"}, {7: "query"})
    add_vectors(store, [9], [content_digest(b"b")], np.full((1, 2), 2.0))
    add_vectors(store, [1, 7], [content_digest(b"a"), content_digest(b"q")], np.array([[1.0, 0], [7.0, 0]]))
    with open_vectors(root, make_embedding_set(root, store, items), side="database") as blocks:
        ids, vectors = (np.concatenate(column) for column in zip(*blocks, strict=True))
    assert ids.tolist() == [1, 5, 9]
    assert vectors.tolist() == [[1, 0], [2, 2], [2, 2]]
    assert [path.name for path in store.list_parts()] == ["part-00000.parquet", "part-00001.parquet"]


def test_a_sample_depends_on_its_seed_alone(root: Root) -> None:
    """The same seed draws the same sample, and a larger sample contains a smaller one."""
    store = EmbeddingStore(root, "f")
    items = write_items(root, {item: f"t{item}" for item in range(1, 201)})
    add_vectors(store, list(range(1, 201)), [content_digest(f"t{item}".encode()) for item in range(1, 201)], np.arange(1, 201.0)[:, None])
    embeddings = make_embedding_set(root, store, items)

    def read_ids(sample: tuple[int, int] | None = None) -> list[int]:
        with open_vectors(root, embeddings, side="database", sample=sample) as blocks:
            return [int(item) for block, _ in blocks for item in block]

    assert read_ids() == list(range(1, 201))
    assert read_ids((20, 1)) == read_ids((20, 1)) != read_ids((20, 2))
    assert read_ids((20, 1)) != list(range(1, 21))
    assert set(read_ids((20, 1))) < set(read_ids((40, 1)))


def test_an_item_without_a_vector_is_an_error(root: Root) -> None:
    """A gap in the store must not become a gap in the index."""
    store = EmbeddingStore(root, "f")
    items = write_items(root, {1: "a", 2: "b"})
    add_vectors(store, [1], [content_digest(b"a")], np.ones((1, 2)))
    with (
        pytest.raises(DamagedFile, match="one vector per item"),
        open_vectors(root, make_embedding_set(root, store, items), side="database") as blocks,
    ):
        list(blocks)


def test_a_truncated_part_is_dropped_and_counts_as_missing(root: Root) -> None:
    """The next build encodes only its contents again."""
    store = EmbeddingStore(root, "f")
    items = write_items(root, {1: "a", 2: "b"})
    add_vectors(store, [1], [content_digest(b"a")], np.ones((1, 2)))
    add_vectors(store, [2], [content_digest(b"b")], np.ones((1, 2)))
    part = store.list_parts()[0]
    part.write_bytes(part.read_bytes()[:-20])
    assert store.drop_damaged() == [part]
    assert list_missing(store, items) == ["a"]


def test_parts_are_plain_parquet_with_an_embedding_column(root: Root) -> None:
    """Other tools can read the store: fixed-size lists of floats, rows in insertion order."""
    store = EmbeddingStore(root, "f")
    add_vectors(store, [1, 2], ["x", "y"], np.array([[1, 2, 3], [4, 5, 6]]))
    table = pq.read_table(store.list_parts()[0])
    assert table.column_names == ["item_id", "content_digest", "truncated", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.column("embedding").to_pylist() == [[1, 2, 3], [4, 5, 6]]


def test_the_encode_plan_has_chunks_of_equal_size(root: Root) -> None:
    """Five missing contents in chunks of two: 2, 2 and 1, by ascending digest."""
    store = EmbeddingStore(root, "f")
    items = write_items(root, {number: f"t{number}" for number in range(1, 7)})
    add_vectors(store, [6], [content_digest(b"t6")], np.ones((1, 2)))
    assert store.write_encode_plan(items, 2, root.path / "plan.parquet") == 5
    rows = pq.read_table(root.path / "plan.parquet").to_pylist()
    assert [row["chunk"] for row in rows] == [0, 0, 1, 1, 2]
    assert [row["content_digest"] for row in rows] == sorted(content_digest(f"t{number}".encode()) for number in range(1, 6))


def test_a_rejected_content_is_not_missing(root: Root) -> None:
    """It is not encoded again, and it is in the table of rejected contents."""
    store = EmbeddingStore(root, "f")
    items = write_items(root, {1: "a", 2: "b"})
    row = {"content_digest": content_digest(b"a"), "reason": "zero_vector", "message": "all zero"}
    store.rejected_parts.add_batch(pa.RecordBatch.from_pylist([row], schema=REJECTED_SCHEMA))
    assert list_missing(store, items) == ["b"]
    assert parquet.fetch_rows(f"SELECT * FROM {store.rejected_sql()}", temp_dir=root.tmp) == [tuple(row.values())]


def test_float16_parts_take_half_the_space_and_are_read_as_float32(root: Root) -> None:
    """The vectors agree to within float16's ten bits."""
    vectors = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    contents = {number: f"t{number}" for number in range(1, 501)}
    digests = [content_digest(text.encode()) for text in contents.values()]
    items, sizes = write_items(root, contents), {}
    for storage_dtype in ("float32", "float16"):
        store = EmbeddingStore(root, storage_dtype)
        add_vectors(store, list(contents), digests, vectors, storage_dtype)  # type: ignore[arg-type]
        sizes[storage_dtype] = store.list_parts()[0].stat().st_size
        with open_vectors(root, make_embedding_set(root, store, items), side="database") as blocks:
            stored = np.concatenate([block for _, block in blocks])
        assert stored.dtype == np.float32
        rtol, atol = (0, 0) if storage_dtype == "float32" else (2**-10, 1e-7)
        np.testing.assert_allclose(stored, vectors, rtol=rtol, atol=atol)
    assert sizes["float16"] < 0.6 * sizes["float32"]


@settings(deadline=None)  # the first example imports torch
@given(rows=st.integers(0, 5), dim=st.integers(1, 9), whole=st.integers(9, 12), seed=st.integers(0, 99), normalize=st.booleans())
def test_shorter_vectors_are_those_of_the_library(rows: int, dim: int, whole: int, seed: int, normalize: bool) -> None:
    """Truncated and normalized by sentence-transformers; that ours were normalized before changes nothing."""
    import torch
    from sentence_transformers.util import truncate_embeddings

    vectors = np.random.default_rng(seed).normal(size=(rows, whole)).astype(np.float32)
    theirs = truncate_embeddings(torch.tensor(vectors), dim)
    if normalize:
        theirs = torch.nn.functional.normalize(theirs, dim=1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert shorten_vectors(vectors, dim, normalize=normalize) == pytest.approx(theirs.numpy(), abs=1e-6)
