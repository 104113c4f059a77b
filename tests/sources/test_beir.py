"""BEIR's layout on disk and on the hub."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.configs.datasets import BeirDatasetConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.beir import BeirSource
from indexmill.tasks.sources.judgements import Judgement
from tests.sources.fake_hub import FakeHub
from tests.sources.hub_datasets import FAST_RETRY, open_fake_hub

CORPUS = [
    {"_id": "1", "title": "wings", "text": "lift and drag"},
    {"_id": "2", "title": "", "text": "heat"},
    {"_id": "3", "title": "", "text": ""},
]
QUERIES = [{"_id": "1", "text": "what is lift"}, {"_id": "2", "text": "of another split"}]
QRELS = {"test": "query-id\tcorpus-id\tscore\n1\t1\t2\n", "dev": "query-id\tcorpus-id\tscore\n2\t2\t1\n"}
ITEMS = [Item(key="1", text="wings lift and drag"), Item(key="2", text="heat"), Item(key="3", text="")]


def to_lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def to_parquet(rows: list[dict[str, str]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def write_folder(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_bytes(to_lines(CORPUS))
    (folder / "queries.jsonl").write_bytes(to_lines(QUERIES))
    for split, text in QRELS.items():
        (folder / "qrels" / f"{split}.tsv").write_text(text)
    return folder


def check(source: BeirSource, splits: tuple[str, ...] = ("test", "dev")) -> None:
    assert list(source.items()) == ITEMS
    assert [(item.key, item.text) for item in source.queries()] == [("1", "what is lift"), ("2", "of another split")]
    expected = {"test": [Judgement("1", "1", 2)], "dev": [Judgement("2", "2", 1)]}
    assert {split: list(source.judgements(split)) for split in splits} == {split: expected[split] for split in splits}


def test_a_folder_is_read_as_beir_reads_it(tmp_path: Path, root: Root) -> None:
    """Title and text are joined by a space and stripped; every split has judgements of its own."""
    config = BeirDatasetConfig(source="beir", path=str(write_folder(tmp_path / "set")))
    source = open_source(config, root)
    assert isinstance(source, BeirSource)
    assert (source.modality, source.labeled, source.image_root, list(source.pairs())) == ("text", False, None, [])
    check(source)


def test_the_revision_changes_with_the_files_that_are_read(tmp_path: Path, root: Root) -> None:
    """New judgements do not change the revision of the items."""
    folder = write_folder(tmp_path / "set")
    source = BeirSource(BeirDatasetConfig(source="beir", path=str(folder)), root)
    items, queries = source.compute_revision(), source.compute_query_revision("test")
    (folder / "qrels" / "test.tsv").write_text(QRELS["test"] + "1\t2\t1\n")
    assert source.compute_revision() == items
    assert source.compute_query_revision("test") != queries
    (folder / "corpus.jsonl").write_bytes(to_lines(CORPUS[:2]))
    assert source.compute_revision() != items


def test_a_missing_file_is_named_with_those_that_exist(tmp_path: Path, root: Root) -> None:
    """The error lists what the folder holds."""
    folder = write_folder(tmp_path / "set")
    source = BeirSource(BeirDatasetConfig(source="beir", path=str(folder)), root)
    with pytest.raises(InputError, match=r"no qrels/train\.tsv") as caught:
        list(source.judgements("train"))
    assert "qrels/dev.tsv" in str(caught.value)
    (folder / "corpus.jsonl").write_text('{"id": "1", "body": "x"}\n')
    with pytest.raises(InputError, match="lacks a column"):
        list(source.items())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with open_fake_hub(monkeypatch, tmp_path) as server:
        yield server


def open_hub_source(root: Root, name: str) -> BeirSource:
    source = BeirSource(BeirDatasetConfig(source="beir", id=name), root, FAST_RETRY)
    source.compute_revision()
    return source


def test_beirs_own_data_sets_keep_judgements_apart(hub: FakeHub, root: Root) -> None:
    """BeIR/NAME is compressed, and BeIR/NAME-qrels has one file per split."""
    hub.datasets["BeIR/wings"] = {"corpus.jsonl.gz": gzip.compress(to_lines(CORPUS)), "queries.jsonl.gz": gzip.compress(to_lines(QUERIES))}
    hub.datasets["BeIR/wings-qrels"] = {f"{split}.tsv": text.encode() for split, text in QRELS.items()}
    source = open_hub_source(root, "BeIR/wings")
    check(source)
    before = source.compute_revision()
    hub.datasets["BeIR/wings-qrels"]["test.tsv"] += b"1\t2\t1\n"
    assert source.compute_revision() != before


def test_parquet_folders_by_split_are_read(hub: FakeHub, root: Root) -> None:
    """MTEB's newer data sets have `id` instead of `_id`, and files named by split."""

    def rename(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{"id": row["_id"], **{name: value for name, value in row.items() if name != "_id"}} for row in rows]

    qrels = to_parquet([{"query-id": "1", "corpus-id": "1", "score": "2"}])
    hub.datasets["mteb/wings"] = {
        "corpus/test-00000-of-00001.parquet": to_parquet(rename(CORPUS)),
        "queries/test-00000-of-00001.parquet": to_parquet(rename(QUERIES)),
        "queries/dev-00000-of-00001.parquet": to_parquet([{"id": "9", "text": "of dev"}]),
        "qrels/test-00000-of-00001.parquet": qrels,
    }
    check(open_hub_source(root, "mteb/wings"), splits=("test",))
