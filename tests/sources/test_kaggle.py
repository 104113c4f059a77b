"""Kaggle data sets, read from a fake Kaggle."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kagglesdk import kaggle_env

from indexmill.configs.datasets import KaggleDatasetConfig
from indexmill.storage.errors import DamagedFile, InputError, SourceUnreachable
from indexmill.storage.root import Root
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.kaggle import KaggleSource
from indexmill.tasks.stage_policy import TRANSIENT_ERRORS
from tests.sources.fake_kaggle import FakeKaggle, make_tar, make_zip

FAST_RETRY = RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=0.05, timeout_s=2)
LEAVES = {f"leaves/{name}/{number}.png": random.Random(number).randbytes(5000) for number, name in enumerate(["oak", "elm", "oak"])}
# Downloads are resumed in steps of a megabyte, so only an archive of several has a part to keep.
FOREST = {f"leaves/oak/{number}.png": random.Random(number).randbytes(1_500_000) for number in range(2)}
MORE_LEAVES = LEAVES | {"leaves/elm/9.png": b"nine"}


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKaggle]:
    """A fake Kaggle for the real library. Its addresses are fixed, so this replaces the one called LOCALHOST."""
    server = FakeKaggle()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.url)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("kagglehub.clients.get_user_agent", lambda: "tests")  # it searches the call stack, for half a second per request
    server.datasets["ours/leaves"] = {1: make_zip(LEAVES), 2: make_zip(MORE_LEAVES)}
    server.datasets["ours/forest"] = {1: make_zip(FOREST)}
    yield server
    server.close()


def make_source(root: Root, **changes: object) -> KaggleSource:
    config = {"source": "kaggle", "handle": "ours/leaves", "subdir": "leaves"} | changes
    return KaggleSource(KaggleDatasetConfig.model_validate(config), root, FAST_RETRY)


def read_images(source: KaggleSource) -> dict[str, bytes]:
    assert source.image_root is not None
    return {f"leaves/{item.path}": (source.image_root / str(item.path)).read_bytes() for item in source.items()}


def test_the_newest_version_is_read_as_a_folder(kaggle: FakeKaggle, root: Root) -> None:
    """Files have exactly the bytes that were packed, labels are folders, and sizes are the files'."""
    source = make_source(root)
    assert read_images(source) == MORE_LEAVES
    assert {(item.key, item.label, item.size) for item in source.items()} == {
        ("oak/0.png", "oak", 5000),
        ("elm/1.png", "elm", 5000),
        ("oak/2.png", "oak", 5000),
        ("elm/9.png", "elm", 4),
    }
    assert (source.modality, source.labeled, list(source.pairs())) == ("image", True, [])


def test_a_configured_version_is_read(kaggle: FakeKaggle, root: Root) -> None:
    """A version in the config is used although there is a newer one, without a request to resolve it."""
    source = make_source(root, version=1)
    assert source.compute_revision() != make_source(root).compute_revision()
    assert read_images(source) == LEAVES
    assert make_source(root, version=2).compute_revision() == make_source(root).compute_revision()


def test_a_tar_archive_is_read_as_well(kaggle: FakeKaggle, root: Root) -> None:
    """Kaggle packs some data sets as tar."""
    kaggle.datasets["ours/leaves"][3] = make_tar(LEAVES)
    assert read_images(make_source(root)) == LEAVES


def test_open_source_opens_a_kaggle_data_set(kaggle: FakeKaggle, root: Root) -> None:
    """The config's type selects the source."""
    assert isinstance(open_source(KaggleDatasetConfig(source="kaggle", handle="ours/leaves"), root), KaggleSource)


def test_compute_revision_downloads_nothing(kaggle: FakeKaggle, root: Root) -> None:
    """One small request returns the newest version."""
    make_source(root).compute_revision()
    assert (len(kaggle.requests), kaggle.count_downloads()) == (1, 0)


def test_a_downloaded_version_is_not_downloaded_again(kaggle: FakeKaggle, root: Root) -> None:
    """With an inventory, items come from disk: no download, and without `compute_revision` no request at all."""
    make_source(root).compute_revision()
    read_images(make_source(root))
    request_count = len(kaggle.requests)
    assert read_images(make_source(root)) == MORE_LEAVES
    assert len(kaggle.requests) == request_count
    make_source(root).compute_revision()
    assert read_images(make_source(root)) == MORE_LEAVES
    assert kaggle.count_downloads() == 1


def test_items_are_those_of_the_pinned_version(kaggle: FakeKaggle, root: Root) -> None:
    """A version that appears between `compute_revision` and `items` waits for the next build."""
    make_source(root).compute_revision()
    kaggle.datasets["ours/leaves"][3] = make_zip(LEAVES)
    assert read_images(make_source(root)) == MORE_LEAVES
    make_source(root).compute_revision()
    assert read_images(make_source(root)) == LEAVES


def test_the_inventory_describes_the_download_and_the_archive_is_deleted(kaggle: FakeKaggle, root: Root) -> None:
    """It counts files and bytes. Nothing else is left next to the files, and nothing outside the root."""
    read_images(make_source(root, version=1))
    (folder,) = root.path.glob("sources/*/1")
    assert sorted(path.name for path in folder.iterdir()) == ["files", "inventory.json"]
    text = (folder / "inventory.json").read_text()
    assert '"file_count": 3' in text
    assert '"unpacked_bytes": 15000' in text
    assert not (root.path.parent / "home").exists()


@pytest.mark.parametrize("fault", [429, 503])
@pytest.mark.parametrize("request_line", ["/GetDataset", "/DownloadDataset", "GET /storage/"], ids=["lookup", "download", "storage"])
def test_a_request_to_a_busy_server_is_retried(kaggle: FakeKaggle, root: Root, fault: int, request_line: str) -> None:
    """429 and 503 delay a download but do not end it."""
    kaggle.fail(request_line, fault)
    make_source(root).compute_revision()
    assert read_images(make_source(root)) == MORE_LEAVES


@pytest.mark.parametrize("has_digests", [True, False])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_interrupted_download_is_resumed_or_restarted(kaggle: FakeKaggle, root: Root, has_digests: bool, has_ranges: bool) -> None:
    """A broken connection leaves the files complete, whether or not the storage can resume a download."""
    kaggle.has_digests, kaggle.has_ranges = has_digests, has_ranges
    kaggle.fail("GET /storage/", "cut", "pass", "cut")
    assert read_images(make_source(root, handle="ours/forest")) == FOREST


def test_an_interrupted_download_is_resumed_by_the_next_build(kaggle: FakeKaggle, root: Root) -> None:
    """The part that arrived before the last attempt failed is kept, and never used as the whole archive."""
    kaggle.fail("GET /storage/", "cut", *["pass", "cut"] * 2)
    with pytest.raises(SourceUnreachable):
        read_images(make_source(root, handle="ours/forest"))
    (archive,) = root.path.glob("sources/*/1/archive")
    assert archive.stat().st_size == 1 << 20
    assert read_images(make_source(root, handle="ours/forest")) == FOREST
    assert kaggle.requests[-1].endswith("bytes=1048576-")


def test_a_download_that_cannot_be_resumed_starts_over(kaggle: FakeKaggle, root: Root) -> None:
    """The body of a 503 response to the resuming request is not appended to the archive."""
    kaggle.fail("GET /storage/", "cut", "pass", 503)
    assert read_images(make_source(root, handle="ours/forest")) == FOREST


def test_a_silent_server_times_out(kaggle: FakeKaggle, root: Root) -> None:
    """A request without a response ends at the timeout and is retried."""
    kaggle.fail("/DownloadDataset", "silent")
    assert read_images(make_source(root)) == MORE_LEAVES


def test_an_archive_with_another_digest_is_refused(kaggle: FakeKaggle, root: Root) -> None:
    """An archive with the wrong MD5 is never unpacked, and the next build downloads it again."""
    kaggle.fail("GET /storage/", "garbled")
    with pytest.raises(DamagedFile, match="archive is damaged"):
        read_images(make_source(root))
    assert not list(root.path.glob("sources/*/*/files"))
    assert read_images(make_source(root)) == MORE_LEAVES


def test_a_leftover_archive_with_wrong_content_is_downloaded_again(kaggle: FakeKaggle, root: Root) -> None:
    """The right length alone does not make a leftover valid."""
    source = make_source(root, version=1)
    folder = root.source(source._slug, "1")
    folder.mkdir(parents=True)
    (folder / "archive").write_bytes(bytes(len(make_zip(LEAVES))))
    assert read_images(source) == LEAVES


def test_an_archive_that_does_not_unpack_is_refused(kaggle: FakeKaggle, root: Root) -> None:
    """Without a digest from the provider, the archive's own checksums decide."""
    kaggle.has_digests = False
    kaggle.fail("GET /storage/", "garbled")
    with pytest.raises(DamagedFile, match="archive is damaged"):
        read_images(make_source(root))
    assert not list(root.path.glob("sources/*/*/files"))


@pytest.mark.parametrize("make_archive", [make_zip, make_tar])
@pytest.mark.parametrize(
    ("members", "links"),
    [({"../evil.png": b"evil"}, {}), ({"/evil.png": b"evil"}, {}), ({}, {"leaves/evil.png": "/etc/hostname"})],
    ids=["parent", "absolute", "link"],
)
def test_an_archive_that_leads_out_is_refused(
    kaggle: FakeKaggle, root: Root, make_archive: Callable[..., bytes], members: dict[str, bytes], links: dict[str, str]
) -> None:
    """A member with a path out of the folder, or a link, stops the download before anything is unpacked."""
    kaggle.datasets["ours/leaves"][3] = make_archive(LEAVES | members, links)
    with pytest.raises(InputError, match="outside of its folder"):
        read_images(make_source(root))
    assert not list(root.path.glob("sources/**/*.png"))
    assert not list(root.path.parent.rglob("evil.png"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"handle": "ours/nothing"}, "no such data set or version"),
        ({"version": 9}, "no such data set or version"),
        ({"subdir": "leafs"}, "nearest: leaves"),
        ({"subdir": "../.."}, "no such folder"),
    ],
)
def test_errors_name_what_the_data_set_lacks(kaggle: FakeKaggle, root: Root, change: dict[str, object], message: str) -> None:
    """A missing data set, version or folder is an InputError with the next step."""
    with pytest.raises(InputError, match=message):
        read_images(make_source(root, **change))


def test_the_error_for_a_private_data_set_says_how_to_get_access(kaggle: FakeKaggle, root: Root) -> None:
    """A refusal is an InputError whose next step is to log in."""
    kaggle.private.add("ours/leaves")
    with pytest.raises(InputError, match="log in"):
        make_source(root).compute_revision()


def test_the_error_without_a_network_is_transient(kaggle: FakeKaggle, root: Root) -> None:
    """A refused connection is a SourceUnreachable, which stages retry."""
    kaggle.close()
    with pytest.raises(SourceUnreachable, match="cannot be reached") as raised:
        make_source(root).compute_revision()
    assert isinstance(raised.value, TRANSIENT_ERRORS)
