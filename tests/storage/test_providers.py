"""One conformance test for each kind of store: S3 (SeaweedFS), Google Cloud Storage (a stand-in), Azure (Azurite).

The client is the real one in all cases, with its URLs, credentials, conditions, listings and uploads in parts.
"""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from indexmill.storage.copying import copy_root
from indexmill.storage.errors import BuildInProgress, RootUnusable
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.object_store import get_cache_folder
from indexmill.storage.retention import hold_snapshot
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.cluster.worker import make_setup
from tests.storage.azure_server import KEY, AzureServer, needs_azurite
from tests.storage.google_server import GoogleServer
from tests.storage.object_server import SECRET, ObjectServer
from tests.storage.snapshot_files import publish

PROVIDERS = ["s3", "gs", pytest.param("az", marks=[needs_azurite, pytest.mark.slow])]


@pytest.fixture(scope="module")
def google_server() -> Iterator[GoogleServer]:
    server = GoogleServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    server = AzureServer(tmp_path_factory.mktemp("azurite"))
    yield server
    server.close()


@pytest.fixture(params=PROVIDERS)
def url(request: pytest.FixtureRequest, bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix of each kind of store, with the environment of its clients."""
    scheme = request.param
    if scheme != "s3":
        server = request.getfixturevalue({"gs": "google_server", "az": "azure_server"}[scheme])
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
    return bucket_url.replace("s3://", f"{scheme}://")


@pytest.fixture
def open_root(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Root]]:
    """Open the root at `url` as another machine does."""
    roots = []

    def open_on(machine: str) -> Root:
        monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / machine))
        roots.append(Root(url))
        return roots[-1]

    yield open_on
    for root in roots:
        root.close()


def race(write: Callable[[int], object]) -> list[int]:
    """Call a function in eight threads with their numbers, and return those for which it succeeded."""
    winners: list[int] = []
    threads = [threading.Thread(target=lambda n=n: winners.append(n) if write(n) else None) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return winners


def test_objects_come_back_as_they_were_written(url: str, tmp_path: Path) -> None:
    """Keys with every kind of character, a file in several parts, a listing in several answers, and what is not there."""
    client = ObjectClient(url)
    keys = ["a/b", "a/c d%20?x=1&y+z", "ä/{ß}", "z"]
    for number, key in enumerate(keys):
        client.put(key, b"x" * number)
    assert {entry.key: entry.size for entry in client.list()} == {key: number for number, key in enumerate(keys)}
    assert [entry.key for entry in client.list("a")] == keys[:2]
    assert (content := client.read(keys[2])) and content.data == b"xx"
    (tmp_path / "file").write_bytes(os.urandom(20_000_000))
    client.put_file("large", tmp_path / "file")
    assert client.fetch("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()
    for _ in range(2):
        client.delete("z")
    assert (client.read("z"), client.info("z"), client.fetch("z", tmp_path / "none")) == (None, None, False)


def test_of_many_writers_one_creates_and_one_swaps(url: str) -> None:
    """And none swaps an object that is gone."""
    clients = [ObjectClient(url) for _ in range(8)]
    clients[0].check_conditional_writes()
    (creator,) = race(lambda n: clients[n].create("key", b"created by %d" % n))
    content = clients[0].read("key")
    assert content
    assert content.data == b"created by %d" % creator
    (swapper,) = race(lambda n: clients[n].swap("key", b"swapped by %d" % n, content.version))
    assert (after := clients[0].read("key")) and after.data == b"swapped by %d" % swapper
    clients[0].delete("key")
    assert clients[0].swap("key", b"", after.version) is None
    assert [entry.key for entry in clients[0].list("probe")] == []


def test_a_root_is_built_shared_copied_and_collected(url: str, open_root: Callable[[str], Root], tmp_path: Path) -> None:
    """Two machines: leases, publishing, readers, and a copy into a folder."""
    first, second = open_root("first"), open_root("second")
    with first.hold_shared(), first.lease_index("name", "build-index"):
        live = publish(first, "a" * 64, "content")
        with pytest.raises(BuildInProgress, match="build-index of name"), second.lease_index("name", "other"):
            pytest.fail("both hold the lease")
    second.store.refresh(second.path)
    snapshots = Snapshots(second, "name")
    with hold_snapshot(snapshots) as manifest:
        assert manifest.snapshot_id == live
        assert (snapshots.fetch(manifest) / "data.bin").read_text() == "content"
        with pytest.raises(BuildInProgress):
            snapshots.publish("00002-bbbbbbbbbb", replacing="00000-aaaaaaaaaa")
    with second.hold_exclusive("gc"):
        assert collect_garbage(second) == []
    target = Root(tmp_path / "target")
    copy_root(second, target, lambda _: None)
    Snapshots(target, "name").verify(Snapshots(target, "name").read_manifest())
    target.close()
    assert make_setup(first).environment.keys() & {"AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"}
    secrets = (SECRET, KEY, "PRIVATE KEY")
    assert not [value for value in make_setup(first).environment.values() if any(secret in value for secret in secrets)]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and any(secret.encode() in path.read_bytes() for secret in secrets)]


def test_refusals_are_named_and_show_no_secret(
    url: str, request: pytest.FixtureRequest, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket that does not exist, and the credentials of somebody else."""
    scheme = url.split(":")[0]
    if scheme != "s3":  # this one creates buckets as they are written to
        for call in (lambda client: client.read("key"), lambda client: client.create("key", b""), lambda client: list(client.list())):
            with pytest.raises(RootUnusable, match="no such bucket"):
                call(ObjectClient(f"{scheme}://others/x", patience_seconds=5))
    wrong = {"s3": {"AWS_SECRET_ACCESS_KEY": "wrong"}}
    if scheme == "gs":
        wrong["gs"] = request.getfixturevalue("google_server").environment(rsa.generate_private_key(65537, 2048))
    if scheme == "az":
        wrong["az"] = request.getfixturevalue("azure_server").environment(base64.b64encode(b"wrong" * 10).decode())
    for name, value in wrong[scheme].items():
        monkeypatch.setenv(name, value)
    variable = {"s3": "AWS_SECRET_ACCESS_KEY", "gs": "GOOGLE_SERVICE_ACCOUNT", "az": "AZURE_STORAGE_ACCOUNT_KEY"}[scheme]
    with pytest.raises(RootUnusable, match="refuses the request") as caught:
        ObjectClient(url, patience_seconds=5).put("key", b"")
    assert variable in str(caught.value)
    assert not [secret for secret in (SECRET, KEY, "PRIVATE KEY", *wrong[scheme].values()) if secret in str(caught.value)]


def test_copies_of_two_servers_are_kept_apart(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same URL on another server is another root."""
    folder = get_cache_folder(url)
    for variable in ("AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"):
        monkeypatch.setenv(variable, "https://elsewhere.example")
    assert get_cache_folder(url) != folder
