"""Every format gives its own reader the rows of the snapshot, and the ten neighbors that exact search finds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from indexmill.storage.root import Root
from tests.exports.published import NAME, Nights
from tests.exports.readers import READERS

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("export_format", "metric"),
    [
        *((name, "cosine") for name in READERS),
        *(pytest.param(name, metric, marks=SLOW) for name in ("hnswlib", "lancedb", "pgvector", "qdrant") for metric in ("ip", "l2")),
    ],
)
def test_its_own_reader_finds_the_rows_and_the_exact_neighbors(
    export_format: str, metric: str, root: Root, published: Nights, get_target: Callable[[str], str]
) -> None:
    """Two shards, two parts of vectors, texts with quotes, breaks and nulls; every key, label and text arrives."""
    nights, target = published, get_target(export_format)
    if metric != "cosine":
        nights = Nights(root, metric=metric)
        nights.publish()
    manifest = nights.snapshots.read_manifest()
    result = nights.export(target, export_format)
    assert (result.state, result.snapshot_id, result.rows, result.written) == ("exported", manifest.snapshot_id, 300, 300)
    queries = nights.draw(20)
    neighbors, rows = READERS[export_format](target, queries, metric)
    assert neighbors == nights.find_neighbors(queries)
    expected = {row["item_id"]: row for row in nights.make_items().to_pylist()}
    assert rows.keys() == expected.keys()
    for item, row in expected.items():
        assert all(rows[item].get(name) == row[name] for name in ("key", "label", "text", "side", "content_digest"))
    assert nights.export(target, export_format).state == "unchanged"


@SLOW
@pytest.mark.parametrize("export_format", READERS)
def test_the_next_snapshot_replaces_the_last(export_format: str, nights: Nights, get_target: Callable[[str], str]) -> None:
    """Items added, replaced, relabeled and removed; an older snapshot can be exported again."""
    target = get_target(export_format)
    first = nights.publish()
    nights.export(target, export_format)
    before = nights.make_items()
    for change in (nights.insert, nights.replace, nights.relabel, nights.delete):
        change(5)
    second = nights.publish()
    assert nights.export(target, export_format).snapshot_id == second.snapshot_id
    queries = nights.draw(5)
    neighbors, rows = READERS[export_format](target, queries, "cosine")
    assert neighbors == nights.find_neighbors(queries)
    labels = dict(zip(*(nights.make_items()[name].to_pylist() for name in ("item_id", "label")), strict=True))
    assert {item: row.get("label") for item, row in rows.items()} == labels
    nights.export(target, export_format, snapshot=first.snapshot_id)
    assert READERS[export_format](target, queries, "cosine")[1].keys() == set(before["item_id"].to_pylist())


@SLOW
def test_the_name_of_a_table_is_the_index_with_underscores(nights: Nights, get_target: Callable[[str], str]) -> None:
    """Dashes would have to be quoted in SQL."""
    import lancedb

    nights.publish()
    nights.export(get_target("lancedb"), "lancedb")
    nights.export(get_target("lancedb"), "lancedb", table="Other-name")
    assert NAME.replace("-", "_") == "drawn_vectors"
    assert sorted(lancedb.connect(get_target("lancedb")).list_tables().tables) == ["Other-name", "drawn_vectors"]
