"""The embedding store gives each item its vector, and knows what it lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import tables
from storage.digests import content_digest
from storage.embeddings import EmbeddingStore, vectors
from storage.errors import DamagedFile
from storage.records import EmbeddingSet
from storage.root import Root

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
    tables.write_parquet(path, SCHEMA, [pa.RecordBatch.from_pylist(rows, schema=SCHEMA)])
    return path


def embedding_set(root: Root, store: EmbeddingStore, items: Path) -> EmbeddingSet:
    ref = root.ref(items)
    return EmbeddingSet(
        digest="d", files=(ref, *store.refs(items)), split="s", fingerprint=store.folder.name, encoder={}, dim=store.dim,
        database=0, query=0, encoded=0, reused=0, items=ref,
    )  # fmt: skip


def missing(store: EmbeddingStore, items: Path) -> list[str]:
    with store.missing(items) as batches:
        return [text for batch in batches for text in batch.column("text").to_pylist()]


def test_only_contents_without_a_vector_are_missing_and_each_once(root: Root) -> None:
    """Two items with one content need one vector; a content that is there needs none."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {1: "a", 2: "b", 3: "a", 4: "c"})
    assert sorted(missing(store, items)) == ["a", "b", "c"]
    assert store.count_missing(items) == 3
    store.add_vectors([2], [content_digest(b"b")], np.ones((1, 4)))
    assert sorted(missing(store, items)) == ["a", "c"]


def test_every_item_gets_the_vector_of_its_content_in_id_order(root: Root) -> None:
    """Whatever part it lies in, and however parts are cut."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {9: "b", 1: "a", 5: "b", 7: "q"}, {7: "query"})
    store.add_vectors([9], [content_digest(b"b")], np.full((1, 2), 2.0))
    store.add_vectors([1, 7], [content_digest(b"a"), content_digest(b"q")], np.array([[1.0, 0], [7.0, 0]]))
    with vectors(root, embedding_set(root, store, items), side="database") as blocks:
        ids, found = (np.concatenate(column) for column in zip(*blocks, strict=True))
    assert ids.tolist() == [1, 5, 9]
    assert found.tolist() == [[1, 0], [2, 2], [2, 2]]
    assert [path.name for path in store.paths()] == ["part-00000.parquet", "part-00001.parquet"]


def test_shards_part_the_items_and_samples_repeat(root: Root) -> None:
    """Every item is in one shard; the same seed draws the same sample, another seed another."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {item: f"t{item}" for item in range(1, 201)})
    store.add_vectors(list(range(1, 201)), [content_digest(f"t{item}".encode()) for item in range(1, 201)], np.arange(1, 201.0)[:, None])
    record = embedding_set(root, store, items)

    def ids(**options: tuple[int, int]) -> list[int]:
        with vectors(root, record, side="database", **options) as blocks:  # type: ignore[arg-type]
            return [int(item) for block, _ in blocks for item in block]

    assert sorted(ids(shard=(0, 3)) + ids(shard=(1, 3)) + ids(shard=(2, 3))) == list(range(1, 201))
    assert ids(sample=(20, 1)) == ids(sample=(20, 1)) != ids(sample=(20, 2))
    assert ids(sample=(20, 1)) != list(range(1, 21))
    assert set(ids(sample=(20, 1))) < set(ids(sample=(40, 1)))


def test_an_item_without_a_vector_is_refused(root: Root) -> None:
    """A hole in the store must not become a hole in the index."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {1: "a", 2: "b"})
    store.add_vectors([1], [content_digest(b"a")], np.ones((1, 2)))
    with (
        pytest.raises(DamagedFile, match="one vector an item"),
        vectors(root, embedding_set(root, store, items), side="database") as blocks,
    ):
        list(blocks)


def test_a_truncated_part_is_dropped_and_counts_as_missing(root: Root) -> None:
    """The next build encodes again just what it held."""
    store = EmbeddingStore(root, "f")
    items = items_table(root, {1: "a", 2: "b"})
    part = store.add_vectors([1], [content_digest(b"a")], np.ones((1, 2)))
    store.add_vectors([2], [content_digest(b"b")], np.ones((1, 2)))
    part.write_bytes(part.read_bytes()[:-20])
    assert store.drop_damaged() == [part]
    assert missing(store, items) == ["a"]


def test_parts_are_plain_parquet_with_an_embedding_column(root: Root) -> None:
    """Other tools read the store without us: fixed-size lists of float, rows in the order they were given."""
    part = EmbeddingStore(root, "f").add_vectors([1, 2], ["x", "y"], np.array([[1, 2, 3], [4, 5, 6]]))
    table = pq.read_table(part)
    assert table.column_names == ["item_id", "content_digest", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    assert table.column("embedding").to_pylist() == [[1, 2, 3], [4, 5, 6]]
