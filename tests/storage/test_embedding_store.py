"""The embedding store gives each item its vector, and knows what it lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.storage import parquet
from indexmill.storage.digests import content_digest
from indexmill.storage.embedding_store import REJECTED, EmbeddingStore, open_vectors
from indexmill.storage.errors import DamagedFile
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from tests.storage.embedding_parts import add_vectors

SCHEMA = pa.schema({"item_id": pa.int64(), "content_digest": pa.string(), "text": pa.string(), "path": pa.string(), "side": pa.string()})


def items_table(root: Root, contents: dict[int, str], sides: dict[int, str] | None = None) -> Path:
    """An items table: item id -> content."""
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


def embedding_set(root: Root, store: EmbeddingStore, items: Path) -> EmbeddingSet:
    ref = root.make_ref(items)
    return EmbeddingSet(
        digest="d", files=(ref, *store.find_refs(items)), split="s", modality="text", fingerprint=store.folder.name, encoder={}, dim=store.dim,
        database=0, query=0, encoded=0, reused=0, rejected=0, truncated=0, items=ref, rejects=None,
    )  # fmt: skip


def missing(store: EmbeddingStore, items: Path) -> list[str]:
    plan = store.root.path / "plan.parquet"
    store.write_encode_plan(items, 2, plan)
    return [row["text"] for row in pq.read_table(plan).to_pylist()]


def test_only_contents_without_a_vector_are_missing_and_each_once(root: Root) -> None:
    """Two items with one content need one vector; a content that is there needs none."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {1: "a", 2: "b", 3: "a", 4: "c"})
    assert sorted(missing(store, items)) == ["a", "b", "c"]
    assert store.count_missing(items) == 3
    add_vectors(store, [2], [content_digest(b"b")], np.ones((1, 4)))
    assert sorted(missing(store, items)) == ["a", "c"]


def test_every_item_gets_the_vector_of_its_content_in_id_order(root: Root) -> None:
    """Whatever part it lies in, and however parts are cut."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {9: "b", 1: "a", 5: "b", 7: "q"}, {7: "query"})
    add_vectors(store, [9], [content_digest(b"b")], np.full((1, 2), 2.0))
    add_vectors(store, [1, 7], [content_digest(b"a"), content_digest(b"q")], np.array([[1.0, 0], [7.0, 0]]))
    with open_vectors(root, embedding_set(root, store, items), side="database") as blocks:
        ids, found = (np.concatenate(column) for column in zip(*blocks, strict=True))
    assert ids.tolist() == [1, 5, 9]
    assert found.tolist() == [[1, 0], [2, 2], [2, 2]]
    assert [path.name for path in store.list_parts()] == ["part-00000.parquet", "part-00001.parquet"]


def test_shards_part_the_items_and_samples_repeat(root: Root) -> None:
    """Every item is in one shard; the same seed draws the same sample, another seed another."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {item: f"t{item}" for item in range(1, 201)})
    add_vectors(store, list(range(1, 201)), [content_digest(f"t{item}".encode()) for item in range(1, 201)], np.arange(1, 201.0)[:, None])
    record = embedding_set(root, store, items)

    def ids(**options: tuple[int, int]) -> list[int]:
        with open_vectors(root, record, side="database", **options) as blocks:  # type: ignore[arg-type]
            return [int(item) for block, _ in blocks for item in block]

    assert sorted(ids(shard=(0, 3)) + ids(shard=(1, 3)) + ids(shard=(2, 3))) == list(range(1, 201))
    assert ids(sample=(20, 1)) == ids(sample=(20, 1)) != ids(sample=(20, 2))
    assert ids(sample=(20, 1)) != list(range(1, 21))
    assert set(ids(sample=(20, 1))) < set(ids(sample=(40, 1)))


def test_an_item_without_a_vector_is_refused(root: Root) -> None:
    """A hole in the store must not become a hole in the index."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {1: "a", 2: "b"})
    add_vectors(store, [1], [content_digest(b"a")], np.ones((1, 2)))
    with (
        pytest.raises(DamagedFile, match="one vector an item"),
        open_vectors(root, embedding_set(root, store, items), side="database") as blocks,
    ):
        list(blocks)


def test_a_truncated_part_is_dropped_and_counts_as_missing(root: Root) -> None:
    """The next build encodes again just what it held."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {1: "a", 2: "b"})
    add_vectors(store, [1], [content_digest(b"a")], np.ones((1, 2)))
    add_vectors(store, [2], [content_digest(b"b")], np.ones((1, 2)))
    part = store.list_parts()[0]
    part.write_bytes(part.read_bytes()[:-20])
    assert store.drop_damaged() == [part]
    assert missing(store, items) == ["a"]


def test_parts_are_plain_parquet_with_an_embedding_column(root: Root) -> None:
    """Other tools read the store without us: fixed-size lists of float, rows in the order they were given."""
    store = EmbeddingStore(root, "f")
    add_vectors(store, [1, 2], ["x", "y"], np.array([[1, 2, 3], [4, 5, 6]]))
    table = pq.read_table(store.list_parts()[0])
    assert table.column_names == ["item_id", "content_digest", "truncated", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.column("embedding").to_pylist() == [[1, 2, 3], [4, 5, 6]]


def test_a_plan_cuts_what_is_missing_into_shards(root: Root) -> None:
    """Five missing at two a shard: 2, 2 and 1, by ascending digest."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {number: f"t{number}" for number in range(1, 7)})
    add_vectors(store, [6], [content_digest(b"t6")], np.ones((1, 2)))
    assert store.write_encode_plan(items, 2, root.path / "plan.parquet") == 5
    rows = pq.read_table(root.path / "plan.parquet").to_pylist()
    assert [row["chunk"] for row in rows] == [0, 0, 1, 1, 2]
    assert [row["content_digest"] for row in rows] == sorted(content_digest(f"t{number}".encode()) for number in range(1, 6))


def test_a_content_that_was_rejected_is_not_missing(root: Root) -> None:
    """It is not encoded again every night, and it is in the table of those without a vector."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {1: "a", 2: "b"})
    row = {"content_digest": content_digest(b"a"), "reason": "zero_vector", "message": "all zero"}
    store.rejected_parts.add_batch(pa.RecordBatch.from_pylist([row], schema=REJECTED))
    assert missing(store, items) == ["b"]
    assert parquet.fetch_rows(f"SELECT * FROM {store.rejected_sql()}", temp_dir=root.tmp) == [tuple(row.values())]


def test_half_precision_takes_half_the_room_and_comes_back_as_float32(root: Root) -> None:
    """To within float16's ten bits."""
    numbers = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    contents = {number: f"t{number}" for number in range(1, 501)}
    digests = [content_digest(text.encode()) for text in contents.values()]
    items, sizes = items_table(root, contents), {}
    for stored in ("float32", "float16"):
        store = EmbeddingStore(root, stored)
        add_vectors(store, list(contents), digests, numbers, stored)  # type: ignore[arg-type]
        sizes[stored] = store.list_parts()[0].stat().st_size
        with open_vectors(root, embedding_set(root, store, items), side="database") as blocks:
            found = np.concatenate([block for _, block in blocks])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, numbers, rtol=0 if stored == "float32" else 2**-10, atol=0 if stored == "float32" else 1e-7)
    assert sizes["float16"] < 0.6 * sizes["float32"]
