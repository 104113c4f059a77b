"""Which rows a snapshot has for an export: chunks, captions, shortened vectors, and what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.storage import parquet
from indexmill.storage.contents import format_cell_path, format_range_path, join_location, read_content
from indexmill.storage.embedding_store import shorten_vectors
from indexmill.storage.errors import DamagedFile
from indexmill.storage.manifests import Manifest
from indexmill.tasks.exports.changes import STORED_SCHEMA, find_changes
from indexmill.tasks.exports.files import divide_batches
from indexmill.tasks.exports.rows import get_vectors, open_rows
from tests.exports.published import DIM, Nights


def read_rows(nights: Nights, manifest: Manifest) -> pa.Table:
    with open_rows(nights.snapshots, manifest) as rows:
        return pa.Table.from_batches(rows.read(), rows.schema)


def read_digests(nights: Nights, manifest: Manifest) -> dict[int, str]:
    table = read_rows(nights, manifest)
    return dict(zip(table["item_id"].to_pylist(), table["row_digest"].to_pylist(), strict=True))


def test_every_row_has_its_own_vector(published: Nights) -> None:
    """The vectors of two parts, in any order."""
    table = read_rows(published, published.snapshots.read_manifest())
    vectors = dict(zip(published.database.ids.tolist(), published.database.vectors, strict=True))
    assert len(table) == 300
    for item, vector in zip(table["item_id"].to_pylist(), table["embedding"].to_pylist(), strict=True):
        np.testing.assert_array_equal(np.float32(vector), vectors[item])


def test_an_index_of_chunks_has_a_row_per_chunk(nights: Nights) -> None:
    """With the item and the position of each."""
    items = nights.make_items()
    parents = pa.array([item // 2 for item in items["item_id"].to_pylist()])
    chunks = items.append_column("parent_id", parents).append_column("chunk", pa.array([0, 1, 2] * 100))
    stores = {"0" * 8: "items.parquet", nights.database.store.folder.name: "chunks.parquet"}
    table = read_rows(nights, nights.publish(chunks, "chunks.parquet", embedding_stores=stores))
    rows = dict(zip(table["item_id"].to_pylist(), table.select(["parent_id", "chunk"]).to_pylist(), strict=True))
    assert rows == dict(zip(items["item_id"].to_pylist(), chunks.select(["parent_id", "chunk"]).to_pylist(), strict=True))


def test_an_index_of_captions_has_the_vectors_of_the_captions(nights: Nights) -> None:
    """The items are images, and their own vectors are in another store."""
    stores = {"0" * 8: "items.parquet", nights.database.store.folder.name: "captions.parquet"}
    manifest = nights.publish(None, "captions.parquet", embedding_stores=stores, modality="image")
    assert len(read_rows(nights, manifest)) == 300


def test_shortened_vectors_are_shortened_as_the_index_has_them(nights: Nights) -> None:
    """`encoder.dimensions` keeps whole vectors in the store."""
    table = read_rows(nights, nights.publish(dim=10))
    order = np.argsort(table["item_id"].to_numpy())
    vectors = np.stack(table["embedding"].to_numpy())[order]
    expected = shorten_vectors(nights.database.vectors[np.argsort(nights.database.ids)], 10, normalize=True)
    np.testing.assert_array_equal(vectors, expected)


@pytest.mark.slow
def test_a_missing_vector_is_damage(nights: Nights) -> None:
    """A part that was removed, and items that are not in the table."""
    manifest = nights.publish()
    nights.database.store.list_parts()[1].unlink()
    with pytest.raises(DamagedFile, match="exactly one vector"):
        read_rows(nights, manifest)
    nights = Nights(nights.root)
    with pytest.raises(DamagedFile, match="exactly one vector"):
        read_rows(nights, nights.publish(nights.make_items().slice(1)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"label": None, "text": "ab"}, {"label": "ab", "text": None}),
        pytest.param({"label": "", "text": "x"}, {"label": None, "text": "x"}, marks=pytest.mark.slow),
        pytest.param({"label": "a/1", "text": "b"}, {"label": "a", "text": "1/b"}, marks=pytest.mark.slow),
        pytest.param({"label": "null", "text": "b"}, {"label": None, "text": "b"}, marks=pytest.mark.slow),
    ],
)
def test_the_digest_of_a_row_changes_with_any_value(nights: Nights, before: dict[str, str], after: dict[str, str]) -> None:
    """Values that move from one column to another, nulls, and separators."""

    def publish(values: dict[str, str]) -> dict[int, str]:
        table = nights.make_items()
        for name, value in values.items():
            column = pa.array([value, *table[name].to_pylist()[1:]], pa.string())
            table = table.set_column(table.column_names.index(name), name, column)
        return read_digests(nights, nights.publish(table))

    old, new = publish(before), publish(after)
    changed = nights.make_items()["item_id"][0].as_py()
    assert {item for item in old if old[item] != new[item]} == {changed}


@pytest.mark.slow
def test_the_digest_of_a_row_changes_with_the_encoder(nights: Nights) -> None:
    """Other vectors of the same contents."""
    one, other = read_digests(nights, nights.publish()), read_digests(nights, nights.publish(fingerprint="g"))
    assert one.keys() == other.keys() and not set(one.values()) & set(other.values())


def test_changes_are_the_rows_whose_digests_differ_and_the_ids_that_are_gone(published: Nights) -> None:
    """A store that holds one row as it is, one that differs, and one of an item that is gone."""
    manifest = published.snapshots.read_manifest()
    digests = read_digests(published, manifest)
    same, different, *others = digests
    stored = pa.record_batch([pa.array([same, different, 7]), pa.array([digests[same], "x", "y"])], schema=STORED_SCHEMA)
    with open_rows(published.snapshots, manifest) as rows:
        changes = find_changes(rows, [stored])
        assert set(pq.read_table(changes.written)["item_id"].to_pylist()) == {different, *others}
        assert pq.read_table(changes.removed)["item_id"].to_pylist() == [7]
        assert (changes.written_count, changes.removed_count) == (299, 1)
        chosen = pa.Table.from_batches(rows.read(changes.written), rows.schema)
        assert set(chosen["item_id"].to_pylist()) == {different, *others}
        assert get_vectors(chosen.combine_chunks().to_batches()[0]).shape == (299, DIM)


@pytest.mark.parametrize(
    ("batches", "limit", "expected"), [([4, 4, 2], 5, [5, 5]), ([10], 3, [3, 3, 3, 1]), ([1] * 6, 4, [4, 2]), ([], 5, [])]
)
def test_batches_are_divided_among_files(batches: list[int], limit: int, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, whatever the sizes of batches and files."""
    monkeypatch.setattr("indexmill.tasks.exports.files.ROWS_PER_FILE", limit)
    numbers = iter(range(sum(batches)))
    made = [pa.record_batch({"n": [next(numbers) for _ in range(size)]}) for size in batches]
    files = [(size, [n for part in parts for n in part["n"].to_pylist()]) for _, size, parts in divide_batches(made, sum(batches))]
    assert [size for size, _ in files] == [len(values) for _, values in files] == expected
    assert [n for _, values in files for n in values] == list(range(sum(batches)))


def test_files_of_an_export_hold_a_bounded_number_of_rows(published: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors and metadata in files with the same numbers and rows."""
    monkeypatch.setattr("indexmill.tasks.exports.files.ROWS_PER_FILE", 128)
    published.export(tmp_path / "npy", "npy")
    published.export(tmp_path / "parquet", "parquet")
    counts = [len(np.load(path)) for path in sorted((tmp_path / "npy" / "text_emb").iterdir())]
    assert counts == [128, 128, 44]
    for folder in (tmp_path / "npy" / "metadata", tmp_path / "parquet"):
        assert [pq.read_metadata(path).num_rows for path in sorted(folder.glob("*.parquet"))] == counts
    first = next(parquet.read_batches(tmp_path / "parquet" / "part-00000.parquet"))
    np.testing.assert_array_equal(get_vectors(first), np.load(tmp_path / "npy" / "text_emb" / "text_emb_00000.npy"))


def test_exported_paths_lead_to_images_inside_other_files(nights: Nights, tmp_path: Path) -> None:
    """`image_path` is read as it is, and `path` below the `image_root` of `_export.json`."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000.tar").write_bytes(b"header, image, padding")
    pq.write_table(pa.table({"image": [b"one", b"two"]}), tmp_path / "images" / "train.parquet")
    contents = {
        format_range_path("00000.tar", 8, 5): b"image",
        format_cell_path("train.parquet", group=0, row=1, element=0, column="image"): b"two",
    }
    items = nights.make_items()
    paths = pa.array([None, *contents] * 100)
    nights.publish(items.set_column(items.schema.get_field_index("path"), "path", paths), image_root=str(tmp_path / "images"))
    nights.export(tmp_path / "npy", "npy")
    rows = pq.read_table(tmp_path / "npy" / "metadata" / "metadata_00000.parquet", columns=["path", "image_path"]).to_pylist()
    image_root = json.loads((tmp_path / "npy" / "_export.json").read_text())["image_root"]
    assert [row["image_path"] is None for row in rows].count(True) == 100
    for row in rows:
        if row["path"]:
            assert row["image_path"] == join_location(image_root, row["path"])
            assert read_content(row["image_path"]) == contents[row["path"]]
