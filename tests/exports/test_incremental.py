"""LanceDB and pgvector: after the first export only the changed rows are written, and readers see a snapshot as a whole."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from indexmill.storage.errors import ExportFailed, InputError
from indexmill.storage.root import Root
from tests.exports.published import Nights
from tests.exports.readers import READERS, TABLE

SLOW = pytest.mark.slow
BOTH = pytest.mark.parametrize("export_format", ["lancedb", "pgvector"])


@BOTH
def test_only_what_changed_is_written(export_format: str, nights: Nights, get_target: Callable[[str], str]) -> None:
    """Counts by hand: 3 inserted, 4 other contents, 2 other labels, 5 removed."""
    target = get_target(export_format)
    nights.publish()
    nights.export(target, export_format)
    nights.insert(3)
    known = nights.database.ids[:-3]
    nights.database.replace(range(4), nights.draw(4))
    nights.labels |= dict.fromkeys(known[4:6].tolist(), "another label")
    nights.database.delete(range(10, 15))
    nights.publish()
    result = nights.export(target, export_format)
    assert (result.rows, result.written, result.removed) == (298, 9, 5)
    nights.database.delete(range(20, 22))
    nights.publish()
    result = nights.export(target, export_format)
    assert (result.rows, result.written, result.removed) == (296, 0, 2)
    nights.publish()
    result = nights.export(target, export_format)
    assert (result.state, result.written, result.removed) == ("exported", 0, 0)
    queries = nights.draw(10)
    assert READERS[export_format](target, queries, "cosine")[0] == nights.find_neighbors(queries)


@SLOW
@BOTH
def test_a_table_that_drifted_is_brought_back(export_format: str, nights: Nights, get_target: Callable[[str], str]) -> None:
    """The store is asked for what it holds, so rows that someone removed or added are noticed."""
    target = get_target(export_format)
    nights.publish()
    nights.export(target, export_format)
    lost = nights.database.ids[0]
    if export_format == "lancedb":
        import lancedb

        lancedb.connect(target).open_table(TABLE).delete(f"item_id = {lost}")
    else:
        with psycopg.connect(target) as connection:
            connection.execute(f"DELETE FROM {TABLE} WHERE item_id = %s", [int(lost)])
    nights.publish()
    assert nights.export(target, export_format).written == 1


@SLOW
@BOTH
def test_another_encoder_or_metric_makes_a_new_table(export_format: str, nights: Nights, get_target: Callable[[str], str]) -> None:
    """Every vector is another one."""
    target = get_target(export_format)
    nights.publish()
    nights.export(target, export_format)
    nights.publish(fingerprint="g", dim=10)
    assert nights.export(target, export_format).written == 300
    assert len(READERS[export_format](target, nights.draw(1)[:, :10], "cosine")[1]) == 300


@BOTH
def test_a_table_of_someone_else_is_not_replaced(export_format: str, published: Nights, get_target: Callable[[str], str]) -> None:
    """Even if it is empty."""
    target = get_target(export_format)
    if export_format == "lancedb":
        import lancedb

        lancedb.connect(target).create_table(TABLE, data=[{"item_id": 1, "vector": [1.0]}])
    else:
        with psycopg.connect(target) as connection:
            connection.execute(f"CREATE TABLE {TABLE} (item_id bigint)")
    with pytest.raises(InputError, match="not written by an export"):
        published.export(target, export_format)


@SLOW
@BOTH
def test_readers_see_one_snapshot_or_the_other(export_format: str, nights: Nights, get_target: Callable[[str], str]) -> None:
    """All labels are of one night, while the table changes from one to the next."""
    target = get_target(export_format)
    table = nights.make_items()

    def publish(label: str) -> None:
        nights.labels = dict.fromkeys(nights.database.ids.tolist(), None) | dict.fromkeys(nights.database.ids[:100].tolist(), label)
        nights.publish()
        nights.export(target, export_format)

    publish("night 0")
    seen: list[set[str]] = []
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            seen.append(read_labels(export_format, target))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in (1, 2, 3):
        publish(f"night {number}")
    is_over.set()
    watcher.join()
    assert len(table) == 300
    assert seen and all(len(labels) == 1 for labels in seen)
    assert read_labels(export_format, target) == {"night 3"}


def read_labels(export_format: str, target: str) -> set[str]:
    if export_format == "lancedb":
        import lancedb

        labels = lancedb.connect(target).open_table(TABLE).to_arrow()["label"].to_pylist()
    else:
        with psycopg.connect(target) as connection:
            labels = [label for (label,) in connection.execute(f"SELECT label FROM {TABLE}").fetchall()]
    return {label for label in labels if label}


@SLOW
@pytest.mark.parametrize(
    ("export_format", "inserted"),
    [
        ("pgvector", 0),
        ("pgvector", 400),
        ("lancedb", 0),
        ("lancedb", 400),
        ("qdrant", 0),
    ],
)
def test_an_export_that_fails_halfway_leaves_the_last_one(
    export_format: str, inserted: int, nights: Nights, get_target: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk error after the first batch, of few rows or of most; the next run writes the snapshot."""
    target = get_target(export_format)
    nights.publish()
    nights.export(target, export_format)
    before = set(nights.database.ids.tolist())
    nights.insert(inserted + 5)
    nights.publish()

    def fail_midway(counted: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises((ExportFailed, OSError), match=r"failed|No space"):
        patch.setattr("indexmill.tasks.exports.run.track", lambda *_: NoProgress(fail_midway))
        nights.export(target, export_format)
    assert READERS[export_format](target, nights.draw(1), "cosine")[1].keys() == before
    assert nights.export(target, export_format).state == "exported"
    assert READERS[export_format](target, nights.draw(1), "cosine")[1].keys() == set(nights.database.ids.tolist())


class NoProgress:
    """Takes the place of `track`, with another function for the finished rows."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.advance = advance

    def __enter__(self) -> Callable[[int], None]:
        return self.advance

    def __exit__(self, *_: object) -> None: ...


def test_a_server_that_is_not_there_is_unreachable(published: Nights) -> None:
    """The error is one that builds retry, and names no user."""
    from indexmill.storage.errors import TargetUnreachable

    for export_format, url in (("pgvector", "postgresql://someone@127.0.0.1:9/db"), ("qdrant", "http://127.0.0.1:9")):
        with pytest.raises(TargetUnreachable) as caught:
            published.export(url, export_format)
        assert isinstance(caught.value, ConnectionError) and "someone" not in str(caught.value)


@SLOW
def test_a_database_without_the_extension_says_so(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's PostgreSQL, which has no pgvector here."""
    from tests.flows.postgres import PASSWORD, find_program, postgres

    if not find_program("initdb"):
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    nights = Nights(root)
    nights.publish()
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with postgres() as url, pytest.raises(InputError, match="does not have the extension pgvector"):
        nights.export(f"postgresql://indexmill@{url.rpartition('@')[2]}", "pgvector")
