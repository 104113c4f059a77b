"""Roots in an object store."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from indexmill.storage.root import Root
from tests.storage.object_server import ObjectServer


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """One S3 server for all tests."""
    server = ObjectServer(tmp_path_factory.mktemp("objects"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket_url(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty prefix of the S3 server, with the environment of its clients and short leases."""
    for name, value in object_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INDEXMILL_LEASE_SECONDS", "2")
    monkeypatch.setenv("INDEXMILL_STORE_PATIENCE", "60")
    return f"s3://tests/{uuid.uuid4().hex}"


@pytest.fixture
def open_machine(bucket_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Root]]:
    """Open the root of `bucket_url` as another machine does: with a cache folder of its own."""
    roots = []

    def open_root(machine: str, *, create: bool = True) -> Root:
        monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / machine))
        roots.append(Root(bucket_url, create=create))
        return roots[-1]

    yield open_root
    for root in roots:
        root.close()
