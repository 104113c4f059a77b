"""Tar shards in a bucket and behind web addresses: the same items as on disk, read by range."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from indexmill.storage.contents import join_location, read_content, read_content_digest
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.root import Root
from indexmill.tasks.sources import remote_files, shard_files
from indexmill.tasks.sources.webdataset import WebDatasetSource
from tests.sources.range_server import RangeServer
from tests.sources.tar_files import make_jpeg, make_sample, open_shards, write_shard

SHARDS = {f"{number:05d}.tar": make_sample("a", number, f"caption {number}") + make_sample("b", number + 10) for number in range(3)}


@pytest.fixture
def web() -> Iterator[RangeServer]:
    server = RangeServer({f"/laion/{name}": content + bytes(1024) for name, content in SHARDS.items()})
    yield server
    server.close()


@pytest.fixture
def local(tmp_path: Path) -> Path:
    for name, members in SHARDS.items():
        write_shard(tmp_path / "laion" / name, members)
    return tmp_path / "laion"


def describe(source: WebDatasetSource) -> list[dict[str, object]]:
    return [asdict(item) | {"mtime_ns": None} for item in source.items()]


def test_a_bucket_gives_the_items_of_the_disk(local: Path, root: Root, bucket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By pattern and by braces. An unchanged night makes no request for content; a changed shard is read again, alone."""
    client = ObjectClient(f"{bucket_url}/laion")
    for name in SHARDS:
        client.put(name, (local / name).read_bytes())
    expected = describe(open_shards(root, local / "*.tar", captions="text"))
    read: list[str] = []
    plain_read = remote_files.RemoteFiles.read_range

    def note(files: remote_files.RemoteFiles, url: str, offset: int, length: int) -> bytes:
        read.append(url.rpartition("/")[2])
        return plain_read(files, url, offset, length)

    monkeypatch.setattr(remote_files.RemoteFiles, "read_range", note)
    source = open_shards(root, f"{bucket_url}/laion/*.tar", captions="text")
    assert describe(source) == expected
    assert source.image_root == f"{bucket_url}/laion"
    assert read == sorted(SHARDS)  # one request for each of these small shards
    for item in source.items():
        assert read_content_digest(source.image_root, item.path) == item.content_digest
    revision = source.compute_revision()
    again = open_shards(root, f"{bucket_url}/laion/*.tar", captions="text")
    assert (describe(again), again.compute_revision(), read) == (expected, revision, sorted(SHARDS))
    by_braces = open_shards(root, f"{bucket_url}/laion/{{00000..00002}}.tar", captions="text")
    assert (describe(by_braces), by_braces.compute_revision()) == (expected, revision)
    read.clear()
    client.put("00001.tar", make_sample("a", 77) + bytes(1024))
    assert again.compute_revision() != revision
    assert [item.key for item in again.items()] == ["00000.tar/a", "00000.tar/b", "00001.tar/a", "00002.tar/a", "00002.tar/b"]
    assert read == ["00001.tar"]
    with pytest.raises(InputError, match="a shard is missing"):
        open_shards(root, f"{bucket_url}/laion/{{00000..00005}}.tar").compute_revision()


def test_web_addresses_are_read_by_range(local: Path, root: Root, web: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks while it is listed, and then image by image. A shard that shrank gives an error, not other bytes."""
    monkeypatch.setattr(shard_files, "READ_BYTES", 1 << 10)
    expected = describe(open_shards(root, local / "{00000..00002}.tar", captions="text"))
    source = open_shards(root, f"{web.url}/laion/{{00000..00002}}.tar", captions="text")
    assert describe(source) == expected
    size = len(web.files["/laion/00000.tar"])
    blocks = [entry for entry in web.ranges if "00000" in entry]
    assert len(blocks) <= size // (1 << 10) + 2
    web.ranges.clear()
    first = next(iter(source.items()))
    location = join_location(source.image_root, str(first.path))
    assert read_content(location) == make_jpeg(0)
    assert web.ranges == [f"/laion/00000.tar: 512-{512 + len(make_jpeg(0))}"]
    web.files["/laion/00000.tar"] = b"short"
    with pytest.raises((OSError, SourceUnreachable)):
        read_content(location)
    with pytest.raises(InputError, match="no such file"):
        open_shards(root, f"{web.url}/laion/{{00000..00009}}.tar").compute_revision()


def test_a_server_that_is_gone_is_unreachable(root: Root, web: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither listing nor reading takes it for a missing image."""
    from indexmill.storage import contents

    monkeypatch.setattr(contents, "REMOTE_RETRIES", 0)
    location = join_location(f"{web.url}/laion", "00000.tar//000000000512+20")
    contents._connect.cache_clear()
    assert len(read_content(location)) == 20
    web.close()
    contents._connect.cache_clear()
    with pytest.raises(SourceUnreachable):
        read_content(location)
