"""Rows of a query: the same items from SQLite, DuckDB, PostgreSQL and MariaDB, no writes, time limits, and rows that cannot be used."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from indexmill.configs.datasets import SqlDatasetConfig
from indexmill.configs.models import ValidateConfig
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.records import Dataset
from indexmill.storage.root import Root
from indexmill.tasks.ingest import ingest
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.revisions import read_source_revision
from indexmill.tasks.validate import validate
from tests.flows.postgres import PASSWORD, find_program, postgres
from tests.sources.mariadb_server import find_mariadb, mariadb
from tests.sources.web_server import serve
from tests.stage_inputs import read_rows

Execute = Callable[..., None]
NEEDS_POSTGRES = [
    pytest.mark.slow,  # the server takes some seconds to start
    pytest.mark.skipif(not find_program("initdb"), reason="needs PostgreSQL: apt-get install postgresql"),
]
NEEDS_MARIADB = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_mariadb("mariadbd"), reason="needs MariaDB: apt-get install mariadb-server-core"),
]
POSTGRESQL = pytest.param("postgresql", marks=NEEDS_POSTGRES)
# The same server by both names: PyMySQL speaks one protocol, and MariaDB is recognized when it is connected.
MARIADB = [pytest.param(name, marks=NEEDS_MARIADB) for name in ("mariadb", "mysql")]
DATABASES = ["sqlite", "duckdb", POSTGRESQL, *MARIADB]
CREATE = "CREATE TABLE things (id INTEGER, kind VARCHAR(20), body TEXT, picture {bytes})"


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def mariadb_url() -> Iterator[str]:
    with mariadb() as url:
        yield url


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Execute]:
    """The URL of an empty database for the config, and a function that changes it."""
    path = tmp_path / "things.db"
    if request.param == "sqlite":

        def execute(statement: str, *values: Any) -> None:
            connection = sqlite3.connect(path)
            connection.execute(statement.format(bytes="BLOB"), values)
            connection.commit()
            connection.close()

        return f"sqlite:///{path}", execute
    if request.param == "duckdb":

        def execute(statement: str, *values: Any) -> None:
            with duckdb.connect(str(path)) as connection:
                connection.execute(statement.format(bytes="BLOB"), list(values))

        return f"duckdb:///{path}", execute
    if request.param == "postgresql":
        url, bytes_type = sa.make_url(request.getfixturevalue("postgres_url")).set(drivername="postgresql+psycopg"), "BYTEA"
    else:
        url, bytes_type = sa.make_url(request.getfixturevalue("mariadb_url")), "LONGBLOB"
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    def execute(statement: str, *values: Any) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement.format(bytes=bytes_type).replace("?", "%s"), values)

    execute("DROP TABLE IF EXISTS things")
    monkeypatch.setenv("INDEXMILL_SQL_USER", "indexmill")
    monkeypatch.setenv("INDEXMILL_SQL_PASSWORD", PASSWORD)
    return f"{request.param}://{url.host}:{url.port}/{url.database}", execute


def make_config(url: str, query: str = "SELECT * FROM things", **settings: Any) -> SqlDatasetConfig:
    columns = {"key_column": "id", "label_column": "kind", "text_column": "body"}
    return SqlDatasetConfig(source="sql", url=url, query=query, **(columns | settings))


def run_ingest(root: Root, config: SqlDatasetConfig) -> Dataset:
    return ingest.fn(root, "some", config, read_source_revision(config, root))


def fill(execute: Execute, rows: list[tuple[Any, ...]]) -> None:
    execute(CREATE)
    for row in rows:
        execute("INSERT INTO things VALUES (?, ?, ?, ?)", *row)


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_rows_are_items_in_any_order(root: Root, database: tuple[str, Execute]) -> None:
    """Texts, numbers, nulls, casts with colons and percent signs; the revision follows the content, not the order."""
    url, execute = database
    fill(execute, [(2, "b", "50 % at 12:30", None), (1, "a", "eins: ä", None), (3, "c", None, None), (None, "c", "no key", None)])
    query = "SELECT id, kind, CAST(body AS VARCHAR(100)) AS body FROM things WHERE body IS NULL OR body LIKE '%' OR body = ':x' ORDER BY id"
    config = make_config(url, query)
    items = {item.key: item for item in open_source(config, root).items()}
    assert {key: (item.label, item.text, item.fault) for key, item in items.items()} == {
        "1": ("a", "eins: ä", None),
        "2": ("b", "50 % at 12:30", None),
        "3": ("c", "", None),
        "row without a key, number 1": (None, None, "the row has no key"),
    }
    dataset = run_ingest(root, config)
    validated = validate.fn(root, dataset, ValidateConfig(max_reject_fraction=0.6))
    assert validated.rejected_by_reason == {"empty_text": 1, "malformed_row": 1}
    plain = make_config(url)
    revision = read_source_revision(plain, root)
    execute("DELETE FROM things WHERE id = 2")
    assert read_source_revision(plain, root) != revision
    execute("INSERT INTO things VALUES (2, 'b', ?, NULL)", "50 % at 12:30")  # now the last row
    assert (read_source_revision(plain, root), read_source_revision(config, root)) == (revision, dataset.revision)
    execute("UPDATE things SET body = 'zwei' WHERE id = 2")
    assert read_source_revision(config, root) != dataset.revision


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_images_in_rows_are_bytes_and_equal_ones_are_one_file(root: Root, database: tuple[str, Execute], digits: Path) -> None:
    """A null and one that is too large are rejects; an unchanged night writes no file."""
    url, execute = database
    images = [path.read_bytes() for path in sorted((digits / "5").iterdir())[:4]]
    fill(execute, [(number, "five", f"text {number}", image) for number, image in enumerate([*images, images[0], None, b"x" * 9000])])
    config = make_config(url, image_column="picture", downloads={"max_bytes": 8000})
    dataset = run_ingest(root, config)
    rows = {row["key"]: (row["content_digest"], row["fault"]) for row in read_rows(root, dataset.table)}
    assert {key: digest for key, (digest, _) in rows.items()} == {
        str(number): image and content_digest(image) for number, image in enumerate([*images, images[0], None, None])
    }
    assert [key for key, (_, fault) in rows.items() if fault] == ["6"]
    files = [path for path in Path(str(dataset.image_root)).rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in files) == sorted(images)
    times = {path: path.stat().st_mtime_ns for path in files}
    assert run_ingest(root, config).digest == dataset.digest
    assert {path: path.stat().st_mtime_ns for path in files} == times


@pytest.mark.parametrize("database", DATABASES, indirect=True)
@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM things",
        "DELETE FROM things RETURNING id, kind, body",
        "INSERT INTO things SELECT 9, 'x', 'y', NULL",
        "SELECT 1; DELETE FROM things",
        "CREATE TABLE t (a INT)",
    ],
)
def test_a_query_cannot_write(root: Root, database: tuple[str, Execute], query: str) -> None:
    """It ends in an error, and the rows are as before."""
    url, execute = database
    fill(execute, [(1, "a", "one", None)])
    with pytest.raises(InputError, match=r"dataset\.query"):
        list(open_source(make_config(url, query), root).items())
    assert [item.text for item in open_source(make_config(url), root).items()] == ["one"]


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_a_query_that_takes_too_long_is_ended(root: Root, database: tuple[str, Execute]) -> None:
    """The database stops working on it."""
    url, execute = database
    fill(execute, [])
    is_mariadb = url.startswith(("mariadb", "mysql"))
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT max(i) AS id FROM n"
    if is_mariadb:  # it ends a recursion after 1,000 steps
        endless = "SELECT max(a.seq + b.seq) AS id FROM seq_1_to_1000000 a JOIN seq_1_to_1000000 b"
    config = make_config(url, endless, timeout_s=0.3, text_column="id", label_column=None)
    with pytest.raises(InputError, match="the query takes too long"):
        list(open_source(config, root).items())
    running = {
        "postgresql": "pg_stat_activity WHERE state = 'active' AND query LIKE '%max(i)%' AND query NOT LIKE '%pg_stat%'",
        "mariadb": "information_schema.processlist WHERE info LIKE '%max(a.seq%' AND info NOT LIKE '%processlist%'",
    }
    if found := running.get("mariadb" if is_mariadb else url.partition(":")[0]):
        count = f"SELECT count(*) AS id, 'a' AS kind, 'b' AS body FROM {found}"
        assert [item.key for item in open_source(make_config(url, count), root).items()] == ["0"]


@pytest.mark.parametrize("database", DATABASES, indirect=True)
def test_what_is_wrong_is_named(root: Root, database: tuple[str, Execute]) -> None:
    """A missing table and a missing column, whatever the database calls them."""
    url, execute = database
    fill(execute, [])
    with pytest.raises(InputError, match="the database refuses the query"):
        list(open_source(make_config(url, "SELECT * FROM nothing"), root).items())
    with pytest.raises(InputError, match="nearest: kind"):
        list(open_source(make_config(url, label_column="kinds"), root).items())


@pytest.mark.parametrize("database", [POSTGRESQL, MARIADB[0]], indirect=True)
def test_credentials_come_from_the_environment(root: Root, database: tuple[str, Execute], monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password is an error without it; another variable may be named."""
    url, execute = database
    fill(execute, [(1, "a", "one", None)])
    monkeypatch.setenv("INDEXMILL_SQL_PASSWORD", "a wrong secret")
    with pytest.raises(InputError, match=r"password authentication failed|Access denied") as caught:
        list(open_source(make_config(url), root).items())
    assert "a wrong secret" not in str(caught.value)
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    config = make_config(url, password_variable="SHOP_PASSWORD")
    dataset = run_ingest(root, config)
    assert not [path for path in root.path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert dataset.items == 1


VALUES = {
    "postgresql": [
        ("ARRAY[1, 2]", None),
        ("'\\x00'::bytea", None),
        ("DATE '2026-01-02'", "2026-01-02"),
        ("1.50::numeric", "1.50"),
        ("true", "true"),
        ("'NaN'::float", ""),
        ("2.0::float", "2"),
        ("'00000000-0000-0000-0000-000000000001'::uuid", "00000000-0000-0000-0000-000000000001"),
    ],
    "mariadb": [
        ("x'00ff'", None),
        ("DATE '2026-01-02'", "2026-01-02"),
        ("1.50", "1.50"),
        ("true", "1"),  # MariaDB has no other
        ("2.0e0", "2"),
        ("JSON_ARRAY(1, 2)", "[1, 2]"),
    ],
}


@pytest.mark.parametrize("database", [POSTGRESQL, MARIADB[0]], indirect=True)
def test_values_that_are_no_text_are_rejects(root: Root, database: tuple[str, Execute]) -> None:
    """Lists and bytes are; dates, decimals, booleans, UUIDs and NaN have a text."""
    url, _ = database
    for value, text in VALUES[url.partition(":")[0]]:
        (item,) = open_source(make_config(url, f"SELECT 1 AS id, 'a' AS kind, {value} AS body"), root).items()
        assert (item.text, item.fault is not None) == (text, text is None), value


def test_a_text_that_is_not_utf_8_is_one_reject(root: Root, tmp_path: Path) -> None:
    """SQLite stores any bytes as text."""
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute(
            "CREATE TABLE things AS SELECT 1 AS id, 'a' AS kind, CAST(x'ff41' AS TEXT) AS body UNION ALL SELECT 2, 'b', 'fine'"
        )
    items = list(open_source(make_config(f"sqlite:///{tmp_path / 't.db'}"), root).items())
    assert [(item.key, item.text) for item in items] == [("1", None), ("2", "fine")]
    assert "0xff" in str(items[0].fault)


def test_a_revision_query_spares_reading_the_rows(root: Root, tmp_path: Path) -> None:
    """Its result alone decides; the query itself is not run."""
    connection = sqlite3.connect(tmp_path / "t.db")
    connection.execute("CREATE TABLE things AS SELECT 1 AS id, 'a' AS kind, 'one' AS body")
    connection.commit()
    config = make_config(
        f"sqlite:///{tmp_path / 't.db'}", "SELECT * FROM view_that_is_missing", revision_query="SELECT count(*), 1.5 FROM things"
    )
    revision = read_source_revision(config, root)
    assert read_source_revision(config, root) == revision
    connection.execute("INSERT INTO things VALUES (2, 'b', 'two')")
    connection.commit()
    assert read_source_revision(config, root) != revision


@pytest.mark.slow
def test_image_columns_of_urls_and_of_paths(root: Root, tmp_path: Path, digits: Path) -> None:
    """URLs are downloaded; with image_folder the values are paths below it, and one that leads out is missing."""
    path = sorted((digits / "5").iterdir())[0]
    connection = sqlite3.connect(tmp_path / "t.db")
    connection.execute("CREATE TABLE things (id, kind, picture)")
    with serve() as web:
        web.files["/a.png"] = path.read_bytes()
        connection.executemany(
            "INSERT INTO things VALUES (?, 'a', ?)", [("url", f"{web.url}/a.png"), ("path", f"5/{path.name}"), ("out", "../x")]
        )
        connection.commit()
        settings = {"text_column": None, "image_column": "picture"}
        url = f"sqlite:///{tmp_path / 't.db'}"
        remote = run_ingest(root, make_config(url, downloads={"allow_private": True}, **settings))
        local = run_ingest(root, make_config(url, image_folder=str(digits), **settings))
    assert {row["key"]: row["content_digest"] is not None for row in read_rows(root, remote.table)} == {
        "url": True,
        "path": False,
        "out": False,
    }
    assert {row["key"]: row["content_digest"] is not None for row in read_rows(root, local.table)} == {
        "url": False,
        "path": True,
        "out": False,
    }


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@host/db", "no password in dataset.url"),
        ("postgresql://host/db?password=secret", "no password in dataset.url"),
        ("oracle://host/db", "starts with one of postgresql://"),
        ("things.db", "starts with one of postgresql://"),
    ],
)
def test_a_url_with_a_password_is_refused(url: str, message: str) -> None:
    """Neither pydantic's error nor ours shows it."""
    from indexmill.configs.loading import load_config

    with pytest.raises(ValidationError, match=message):
        make_config(url)
    dataset = f"{{source: sql, url: '{url}', query: SELECT 1, key_column: id, text_column: t}}"
    with pytest.raises(InputError, match=message) as caught:
        load_config("demo-text", [f"dataset={dataset}"])
    assert "secret" not in str(caught.value)


def test_a_url_on_the_command_line_is_located_there(tmp_path: Path) -> None:
    """Neither on a line of the file, nor with a command that would fail in the same way."""
    from indexmill.configs.loading import load_config

    path = tmp_path / "shop.yaml"
    dataset = "{source: sql, url: sqlite:///x, query: SELECT 1, key_column: id, text_column: t}"
    path.write_text(f"name: shop\ndataset: {dataset}\nencoder: {{kind: sentence-transformers, model: m}}\n")
    for url in ("postgresql://bob:secret@host/db", "oracle://host/db"):
        with pytest.raises(InputError, match=r"where: +dataset\.url, .*shop\.yaml, --set dataset\.url") as caught:
            load_config(str(path), [f"dataset.url={url}"])
        assert "secret" not in str(caught.value)
        assert "indexmill check" not in caught.value.next_step


def test_a_query_error_names_its_key_and_users_only_where_there_are_some(root: Root, tmp_path: Path) -> None:
    """A file has none."""
    url = f"sqlite:///{tmp_path / 'some.db'}"
    sqlite3.connect(tmp_path / "some.db").close()
    for query in ("SELEC 1", "CREATE TABLE t (x)"):
        with pytest.raises(InputError) as caught:
            open_source(make_config(url, revision_query=query), root).compute_revision()
        assert caught.value.where == "dataset.revision_query"
        assert caught.value.next_step.startswith("correct dataset.revision_query")
        assert "password" not in caught.value.next_step


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb"])
def test_a_server_that_is_not_there_is_tried_again(root: Root, dialect: str) -> None:
    """It counts as a transient error, which a stage retries."""
    with pytest.raises(SourceUnreachable, match="the database does not answer"):
        list(open_source(make_config(f"{dialect}://127.0.0.1:1/x"), root).items())


def test_a_file_that_does_not_exist_is_not_created(root: Root, tmp_path: Path) -> None:
    """Both libraries would create an empty database."""
    for name in ("sqlite", "duckdb"):
        with pytest.raises(InputError, match="the database does not exist"):
            open_source(make_config(f"{name}:///{tmp_path / 'none.db'}"), root)
    assert not (tmp_path / "none.db").exists()
