"""The keys of parts say what a store holds, without its vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.storage.digests import content_digest
from indexmill.storage.embedding_store import EmbeddingStore, concatenate_blocks, open_vectors, open_vectors_by_part
from indexmill.storage.errors import DamagedFile
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.part_keys import find_keys, find_parts
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from tests.storage.embedding_parts import add_vectors
from tests.storage.test_embedding_store import list_missing, make_embedding_set, write_items

CONTENTS = {number: f"t{number}" for number in range(1, 101)}


@pytest.fixture
def store(root: Root) -> EmbeddingStore:
    """A hundred contents in parts of ten, in the order of their digests. The vector of item n is (n, -n)."""
    store = EmbeddingStore(root, "f")
    ordered = sorted(CONTENTS, key=lambda item: content_digest(CONTENTS[item].encode()))
    for start in range(0, 100, 10):
        ids = ordered[start : start + 10]
        add_vectors(store, ids, [content_digest(CONTENTS[item].encode()) for item in ids], np.array([[item, -item] for item in ids]))
    return store


def erase_vectors(store: EmbeddingStore, kept: tuple[int, ...] = ()) -> None:
    """Fill all parts but these with zeros, under the same size."""
    for number, part in enumerate(store.list_parts()):
        if number not in kept:
            part.write_bytes(bytes(part.stat().st_size))


def read_numbers(root: Root, embeddings: EmbeddingSet, rows_sql: str) -> list[int]:
    return [int(Path(ref.path).stem.removeprefix("part-")) for ref in find_parts(root, embeddings, rows_sql).get((), ())]


def test_a_part_is_committed_with_its_keys(store: EmbeddingStore) -> None:
    """The contents of the part, in a file named by its number and its size."""
    part = store.list_parts()[3]
    keys = find_keys(store.root, part)
    assert keys.name == f"keys-00003-{part.stat().st_size}.parquet"
    assert pq.read_table(keys).to_pydict() == pq.read_table(part, columns=["content_digest", "truncated"]).to_pydict()


def test_what_is_missing_is_found_in_the_keys(root: Root, store: EmbeddingStore) -> None:
    """Keys that list one content more than their part are believed: nothing else is read for it."""
    items = write_items(root, {**CONTENTS, 101: "new"})
    assert (list_missing(store, items), store.count_missing(items), store.count_truncated(items)) == (["new"], 1, 0)
    keys = find_keys(store.root, store.list_parts()[0])
    extra = pa.table({"content_digest": [content_digest(b"new")], "truncated": [True]})
    pq.write_table(pa.concat_tables([pq.read_table(keys), extra]), keys)
    assert (list_missing(store, items), store.count_missing(items), store.count_truncated(items)) == ([], 0, 1)
    assert len(store.find_refs(items)) == 10


def test_parts_are_found_by_group(root: Root, store: EmbeddingStore) -> None:
    """The first ten contents are in part 0; the eleventh to the thirtieth, with one of part 9, in 1, 2 and 9."""
    embeddings = make_embedding_set(root, store, write_items(root, CONTENTS))
    erase_vectors(store)
    digests = sorted(content_digest(text.encode()) for text in CONTENTS.values())
    values = [("a", digest) for digest in digests[:10]] + [("b", digest) for digest in (*digests[10:30], digests[99])]
    sql = "SELECT * FROM (VALUES " + ", ".join(f"('{group}', '{digest}')" for group, digest in values) + ") t(name, content_digest)"
    found = find_parts(root, embeddings, sql, ["name"])
    names = {group: [Path(ref.path).name for ref in refs] for group, refs in found.items()}
    assert names == {("a",): ["part-00000.parquet"], ("b",): [f"part-0000{number}.parquet" for number in (1, 2, 9)]}
    assert find_parts(root, embeddings, "SELECT 'none' AS content_digest") == {}


def test_a_store_without_keys_is_read_itself_until_the_next_build_writes_them(root: Root, store: EmbeddingStore) -> None:
    """As stores of earlier versions; and a file of keys that is cut off is written again."""
    items = write_items(root, CONTENTS)
    keys = [find_keys(store.root, part) for part in store.list_parts()]
    for number, path in enumerate(keys):
        path.unlink() if number % 2 else path.write_bytes(path.read_bytes()[:-9])
    assert list_missing(store, items) == []
    assert len(store.find_refs(items)) == 10
    assert store.drop_damaged() == []
    assert [find_keys(store.root, part) for part in store.list_parts()] == keys


def test_garbage_collection_leaves_no_keys_of_removed_vectors(root: Root, store: EmbeddingStore) -> None:
    """Rewritten and removed parts have no keys, so their removed contents are missing."""
    items = write_items(root, CONTENTS)
    collect_garbage(root, days=-1)
    assert store.list_parts() == []
    assert list(store.folder.glob("keys-*")) == []
    assert len(list_missing(store, items)) == 100


def test_keys_do_not_count_for_a_part_of_another_size(store: EmbeddingStore) -> None:
    """A part that something else rewrote is read itself, until the next build replaces its keys."""
    part = store.list_parts()[0]
    pq.write_table(pq.read_table(part).slice(0, 4), part)
    assert find_keys(store.root, part) == part
    assert store.drop_damaged() == []
    assert pq.read_metadata(find_keys(store.root, part)).num_rows == 4
    assert len(list(store.folder.glob("keys-*"))) == 10


def test_a_sample_of_the_database_is_in_few_parts(root: Root, store: EmbeddingStore) -> None:
    """Twenty of a hundred contents are in at most three parts of ten, and no other part is read."""
    items = write_items(root, CONTENTS)
    embeddings = make_embedding_set(root, store, items)

    def read(size: int, seed: int) -> tuple[list[int], list[list[float]]]:
        with open_vectors(root, embeddings, side="database", sample=(size, seed)) as blocks:
            ids, vectors = concatenate_blocks(blocks, 2)
        return ids.tolist(), vectors.tolist()

    ids, vectors = read(20, 5)
    assert len(set(ids)) == 20
    assert vectors == [[item, -item] for item in ids] == [[item, -item] for item in sorted(ids)]
    assert set(read(10, 5)[0]) < set(ids)
    values = ", ".join(f"('{content_digest(CONTENTS[item].encode())}')" for item in ids)
    numbers = read_numbers(root, embeddings, f"SELECT * FROM (VALUES {values}) t(content_digest)")
    assert len(numbers) <= 3
    erase_vectors(store, tuple(numbers))
    assert read(20, 5) == (ids, vectors)


def test_a_sample_has_each_content_once_as_long_as_there_are_others(root: Root) -> None:
    """Ninety of a hundred items have one content: ten of ten others are in a sample of eleven, and all in one of a hundred."""
    store = EmbeddingStore(root, "f")
    contents = {item: "same" if item > 10 else f"t{item}" for item in range(1, 101)}
    distinct = sorted({content_digest(text.encode()) for text in contents.values()})
    add_vectors(store, list(range(11)), distinct, np.ones((11, 2)))
    embeddings = make_embedding_set(root, store, write_items(root, contents))
    for size in (11, 100):
        with open_vectors(root, embeddings, side="database", sample=(size, 0)) as blocks:
            ids = concatenate_blocks(blocks, 2)[0].tolist()
        assert ids == ([*range(1, 12)] if size == 11 else [*range(1, 101)])


def test_vectors_by_part_are_those_of_the_items(root: Root, store: EmbeddingStore) -> None:
    """Every item of the side once, ascending within a part, with items of equal content and those of other sides."""
    contents = {**CONTENTS, 200: "t7", 201: "t8"}
    embeddings = make_embedding_set(root, store, write_items(root, contents, dict.fromkeys(range(1, 31), "query")))
    with open_vectors_by_part(root, embeddings, side="database") as blocks:
        found = [(ids.tolist(), vectors) for ids, vectors in blocks]
    assert all(ids == sorted(ids) for ids, _ in found)
    values = {item: vectors[row].tolist() for ids, vectors in found for row, item in enumerate(ids)}
    assert sum(len(ids) for ids, _ in found) == len(values) == 72
    assert values == {**{item: [item, -item] for item in range(31, 101)}, 200: [7, -7], 201: [8, -8]}


@pytest.mark.parametrize("fault", ["missing", "twice"])
def test_vectors_by_part_are_one_per_item(fault: str, root: Root, store: EmbeddingStore) -> None:
    """A content in no part, or in two."""
    if fault == "twice":
        add_vectors(store, [1], [content_digest(b"t1")], np.ones((1, 2)))
    items = write_items(root, CONTENTS if fault == "twice" else {**CONTENTS, 101: "new"})
    embeddings = make_embedding_set(root, store, items)
    with pytest.raises(DamagedFile, match="one vector per item"), open_vectors_by_part(root, embeddings, side="database") as blocks:
        list(blocks)
