"""The stage `queries`: queries and judgements checked against the items, with every unusable row counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from indexmill.configs.models import OwnQueriesConfig, PipelineConfig
from indexmill.storage.digests import item_id, query_id
from indexmill.storage.errors import InputError
from indexmill.storage.records import SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.ingest import ingest
from indexmill.tasks.queries import read_queries
from indexmill.tasks.sources.revisions import read_query_revision, read_source_revision
from indexmill.tasks.split import split
from indexmill.tasks.validate import validate

ENCODER = {"kind": "open-clip", "model": "m", "pretrained": "p"}
TEXTS = ["lift and drag", "heat in slabs", "shock waves"]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_config(folder: Path, dataset: dict[str, Any], **sections: Any) -> PipelineConfig:
    items = write_lines(folder / "items.jsonl", [{"key": str(number), "text": text} for number, text in enumerate(TEXTS, start=1)])
    table = {"source": "jsonl", "path": items, "key_column": "key", "text_column": "text"}
    return PipelineConfig.model_validate({"name": "some", "dataset": table | dataset, "encoder": ENCODER, **sections})


def run(root: Root, config: PipelineConfig) -> SplitDataset:
    dataset = ingest.fn(root, config.name, config.dataset, read_source_revision(config.dataset, root))
    items = split.fn(root, validate.fn(root, dataset, config.validate_), config.split)
    own = config.own_queries
    assert isinstance(own, OwnQueriesConfig)
    return read_queries.fn(root, items, own, read_query_revision(own, root))


def run_with(root: Root, tmp_path: Path, queries: list[dict[str, Any]], judgements: str = "") -> SplitDataset:
    dataset: dict[str, Any] = {"queries": write_lines(tmp_path / "queries.jsonl", queries)}
    if judgements:
        (tmp_path / "qrels.txt").write_text(judgements)
        dataset["judgements"] = str(tmp_path / "qrels.txt")
    return run(root, make_config(tmp_path, dataset))


def test_a_query_with_an_items_key_is_not_that_item(root: Root, tmp_path: Path) -> None:
    """Query ids are often ordinals, as keys may be; every item stays on the database side."""
    record = run_with(root, tmp_path, [{"id": "1", "text": " lift  and drag "}], "1 0 1 3\n1 0 2 0\n")
    assert (record.database, record.query) == (3, 0)
    (table,) = record.query_tables
    (query,) = pq.read_table(root.file(table.table)).to_pylist()
    assert query["item_id"] == query_id("", "1") != item_id("1")
    assert (query["key"], query["text"], query["side"], query["leak"]) == ("1", "lift and drag", "query", False)
    assert table.judgements
    judged = pq.read_table(root.file(table.judgements)).to_pylist()
    assert {(row["query_id"], row["item_id"], row["item"], row["grade"]) for row in judged} == {
        (query_id("", "1"), item_id("1"), "1", 3),
        (query_id("", "1"), item_id("2"), "2", 0),
    }


def test_every_row_that_is_not_used_is_counted(root: Root, tmp_path: Path) -> None:
    """An empty text, a query without a judgement, and judgements of nothing, twice, or below zero."""
    queries = [{"id": "a", "text": "lift"}, {"id": "b", "text": "  "}, {"id": "c", "text": "shock"}, {"id": "d", "text": None}]
    judgements = "a 0 1 2\na 0 1 2\na 0 gone 1\na 0 2 -2\nnobody 0 1 1\nb 0 1 1\n"
    (table,) = run_with(root, tmp_path, queries, judgements).query_tables
    assert table.counts == {
        "queries_read": 4,
        "queries": 2,
        "queries_unjudged": 2,
        "queries_rejected": 2,
        "queries_leaking": 0,
        "judgements": 6,
        "judgements_without_query": 2,
        "judgements_without_item": 1,
        "judgements_negative": 1,
        "judgements_repeated": 1,
    }
    rejects = pq.read_table(root.file(table.rejects)).to_pylist()
    assert {(row["key"], row["reason"]) for row in rejects} == {("b", "empty_text"), ("d", "empty_text")}
    assert table.judgements
    grades = {row["item"]: row["grade"] for row in pq.read_table(root.file(table.judgements)).to_pylist()}
    assert grades == {"1": 2, "gone": 1, "2": 0}


@pytest.mark.parametrize(
    ("queries", "judgements", "message"),
    [
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "", "two queries have the same id"),
        ([{"id": "a", "text": ""}], "", "no query can be used"),
        ([{"id": "a", "text": "x"}], "b 0 1 1\n", "no judgement names a query"),
        ([{"id": "a", "text": "x"}], "a 0 item-1 1\n", "no judgement names an item"),
        ([{"id": "a", "text": "x"}], "a 0 1 1\na 0 1 2\n", "two judgements of one query and item differ"),
        ([{"id": "a", "text": "x"}], "\n", "there is no judgement"),
        ([{"name": "a", "text": "x"}], "", "the table has no column 'id'"),
    ],
)
def test_input_that_cannot_be_meant_is_an_error(
    root: Root, tmp_path: Path, queries: list[dict[str, Any]], judgements: str, message: str
) -> None:
    """Ids that match nothing show one id of either side."""
    with pytest.raises(InputError, match=message):
        run_with(root, tmp_path, queries, judgements)


def test_a_missing_file_names_its_setting(root: Root, tmp_path: Path) -> None:
    """The error is about dataset.queries, not about the items."""
    config = make_config(tmp_path, {"queries": str(tmp_path / "gone.jsonl")})
    with pytest.raises(InputError, match="the file does not exist") as caught:
        run(root, config)
    assert caught.value.where == "dataset.queries"


def test_sets_share_queries_and_differ_in_judgements(root: Root, tmp_path: Path) -> None:
    """A further set has ids of its own, so that both can be in one table."""
    (tmp_path / "main.txt").write_text("a 0 1 1\n")
    (tmp_path / "strict.txt").write_text("a 0 2 1\nb 0 2 1\n")
    queries = write_lines(tmp_path / "queries.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}])
    other = write_lines(tmp_path / "other.jsonl", [{"id": "a", "text": "z"}])
    sets = {"strict": {"judgements": str(tmp_path / "strict.txt")}, "log": {"queries": other}}
    dataset = {"queries": queries, "judgements": str(tmp_path / "main.txt")}
    main, strict, log = run(root, make_config(tmp_path, dataset, evaluation={"sets": sets})).query_tables
    assert [table.name for table in (main, strict, log)] == ["", "strict", "log"]
    assert [table.counts["queries"] for table in (main, strict, log)] == [2, 2, 1]
    assert (main.counts["queries_unjudged"], strict.counts["queries_unjudged"], log.judgements) == (1, 0, None)
    ids = [set(pq.read_table(root.file(table.table))["item_id"].to_pylist()) for table in (main, strict, log)]
    assert len(set.union(*ids)) == 5


def test_leaks_are_looked_for_when_asked(root: Root, tmp_path: Path) -> None:
    """By default a query may equal an item; with split.leaks: exclude it is marked."""
    dataset = {"queries": write_lines(tmp_path / "queries.jsonl", [{"id": "a", "text": "Heat, in slabs!"}, {"id": "b", "text": "x"}])}
    (kept,) = run(root, make_config(tmp_path, dataset)).query_tables
    (looked,) = run(root, make_config(tmp_path, dataset, split={"leaks": "exclude"})).query_tables
    assert (kept.counts["queries_leaking"], looked.counts["queries_leaking"]) == (0, 1)
    leaks = {row["key"]: row["leak"] for row in pq.read_table(root.file(looked.table)).to_pylist()}
    assert leaks == {"a": True, "b": False}


def test_the_record_depends_on_the_judgements_and_not_on_their_place(root: Root, tmp_path: Path) -> None:
    """The same queries and judgements give the same digest; another grade gives another."""
    queries = [{"id": "a", "text": "x"}]
    first = run_with(root, tmp_path, queries, "a 0 1 1\n")
    again = run_with(root, tmp_path, queries, "a 0 1 1\n\n")
    other = run_with(root, tmp_path, queries, "a 0 1 2\n")
    assert first.digest == again.digest != other.digest
    assert first.items_digest == other.items_digest != first.digest


def make_pairs_config(tmp_path: Path, **index: Any) -> PipelineConfig:
    """Two cartoons, one with two captions and one with one; the rows are keyed."""
    for number in (0, 1):
        Image.radial_gradient("L").rotate(90 * number).crop((0, 0, 64 + 32 * number, 64)).save(tmp_path / f"{number}.png")
    rows = [(0, "x0", "a cat"), (0, "x1", "a dog"), (1, "y0", "a fish"), (1, "y1", None)]
    lines = [{"image": f"{number}.png", "key": key, "text": text} for number, key, text in rows]
    table = {"source": "jsonl", "path": write_lines(tmp_path / "items.jsonl", lines), "key_column": "key", "queries": "pairs"}
    dataset = table | {"image_column": "image", "text_column": "text"}
    return PipelineConfig.model_validate({"name": "some", "dataset": dataset, "encoder": ENCODER, "index": index})


def read_pairs(root: Root, config: PipelineConfig) -> tuple[dict[int, dict[str, Any]], set[tuple[str, str]]]:
    (table,) = run(root, config).query_tables
    assert table.is_pairs
    assert table.judgements
    queries = {row["item_id"]: row for row in pq.read_table(root.file(table.table)).to_pylist()}
    judged = pq.read_table(root.file(table.judgements)).to_pylist()
    assert {row["grade"] for row in judged} == {1}
    return queries, {(queries[row["query_id"]]["key"], row["item"]) for row in judged}


def test_captions_are_queries_for_every_row_of_their_image(root: Root, tmp_path: Path) -> None:
    """An image with two captions is two items; either is right for both captions."""
    queries, judged = read_pairs(root, make_pairs_config(tmp_path))
    assert {(row["key"], row["text"]) for row in queries.values()} == {("x0", "a cat"), ("x1", "a dog"), ("y0", "a fish")}
    assert judged == {("x0", "x0"), ("x0", "x1"), ("x1", "x0"), ("x1", "x1"), ("y0", "y0"), ("y0", "y1")}


def test_images_are_queries_for_their_captions(root: Root, tmp_path: Path) -> None:
    """With an index of captions, each distinct image is one query, and a row without a caption is not an answer."""
    queries, judged = read_pairs(root, make_pairs_config(tmp_path, modality="text"))
    assert {(row["key"], row["path"], row["text"]) for row in queries.values()} == {("x0", "0.png", None), ("y0", "1.png", None)}
    assert judged == {("x0", "x0"), ("x0", "x1"), ("y0", "y0")}


def test_pairs_need_captions(root: Root, tmp_path: Path) -> None:
    """Texts have no other half."""
    with pytest.raises(InputError, match="no pairs of images and captions"):
        run(root, make_config(tmp_path, {"queries": "pairs"}))


def test_image_queries_are_decoded(root: Root, tmp_path: Path) -> None:
    """Paths are relative to the table; what cannot be decoded or does not exist is a reject."""
    Image.radial_gradient("L").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"not an image")
    rows = [{"id": name, "image": f"{name}.png"} for name in ("good", "bad", "gone")]
    dataset = {"queries": {"path": write_lines(tmp_path / "queries.jsonl", rows), "image_column": "image"}}
    (table,) = run(root, make_config(tmp_path, dataset)).query_tables
    assert (table.modality, table.image_root) == ("image", str(tmp_path))
    assert [row["key"] for row in pq.read_table(root.file(table.table)).to_pylist()] == ["good"]
    assert {row["key"]: row["reason"] for row in pq.read_table(root.file(table.rejects)).to_pylist()}.keys() == {"bad", "gone"}
