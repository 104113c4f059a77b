from __future__ import annotations

import random
from collections.abc import Iterator
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
from tests.sources.fake_kaggle import FakeKaggle, tarred, zipped

QUICK = RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=0.05, timeout_s=0.5)
LEAVES = {f"leaves/{name}/{number}.png": random.Random(number).randbytes(5000) for number, name in enumerate(["oak", "elm", "oak"])}
# Downloads go on by the megabyte, so only an archive of some has a part to keep.
FOREST = {f"leaves/oak/{number}.png": random.Random(number).randbytes(1_500_000) for number in range(2)}
MORE_LEAVES = LEAVES | {"leaves/elm/9.png": b"nine"}


@pytest.fixture
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKaggle]:
    """A stand-in that the real library talks to. It knows a fixed few addresses, of which this replaces the one named LOCALHOST."""
    standin = FakeKaggle()
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, standin.url)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    standin.datasets["ours/leaves"] = {1: zipped(LEAVES), 2: zipped(MORE_LEAVES)}
    standin.datasets["ours/forest"] = {1: zipped(FOREST)}
    yield standin
    standin.close()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    root = Root(tmp_path / "root")
    yield root
    root.close()


def leaves(root: Root, **changes: object) -> KaggleSource:
    config = {"source": "kaggle", "handle": "ours/leaves", "subdir": "leaves"} | changes
    return KaggleSource(KaggleDatasetConfig.model_validate(config), root, QUICK)


def contents(source: KaggleSource) -> dict[str, bytes]:
    assert source.image_root is not None
    return {f"leaves/{item.path}": (source.image_root / str(item.path)).read_bytes() for item in source.items()}


def test_the_newest_version_is_read_as_a_folder(kaggle: FakeKaggle, root: Root) -> None:
    """Files have exactly the bytes that were packed, labels are folders, and sizes are the files'."""
    ours = leaves(root)
    assert contents(ours) == MORE_LEAVES
    assert {(item.key, item.label, item.size) for item in ours.items()} == {
        ("oak/0.png", "oak", 5000), ("elm/1.png", "elm", 5000), ("oak/2.png", "oak", 5000), ("elm/9.png", "elm", 4),
    }  # fmt: skip
    assert (ours.modality, ours.labeled, list(ours.pairs())) == ("image", True, [])


def test_a_named_version_is_the_one_that_is_read(kaggle: FakeKaggle, root: Root) -> None:
    """A version in the config is taken though there is a newer one, and takes no request to resolve."""
    ours = leaves(root, version=1)
    assert ours.compute_revision() != leaves(root).compute_revision()
    assert contents(ours) == LEAVES
    assert leaves(root, version=2).compute_revision() == leaves(root).compute_revision()


def test_a_tar_archive_is_read_as_well(kaggle: FakeKaggle, root: Root) -> None:
    """Kaggle packs some data sets as tar."""
    kaggle.datasets["ours/leaves"][3] = tarred(LEAVES)
    assert contents(leaves(root)) == LEAVES


def test_open_source_opens_a_kaggle_data_set(kaggle: FakeKaggle, root: Root) -> None:
    """The config's kind is all that is needed to open it."""
    assert isinstance(open_source(KaggleDatasetConfig(source="kaggle", handle="ours/leaves"), root), KaggleSource)


def test_revision_downloads_nothing(kaggle: FakeKaggle, root: Root) -> None:
    """One small request tells the newest version."""
    leaves(root).compute_revision()
    assert (len(kaggle.requests), kaggle.downloads()) == (1, 0)


def test_a_fetched_version_is_not_fetched_again(kaggle: FakeKaggle, root: Root) -> None:
    """Once the inventory is there, items come from disk: no download, and without `revision` no request at all."""
    leaves(root).compute_revision()
    contents(leaves(root))
    asked = len(kaggle.requests)
    assert contents(leaves(root)) == MORE_LEAVES
    assert len(kaggle.requests) == asked
    leaves(root).compute_revision()
    assert contents(leaves(root)) == MORE_LEAVES
    assert kaggle.downloads() == 1


def test_items_are_those_of_the_announced_version(kaggle: FakeKaggle, root: Root) -> None:
    """A version that arrives between `revision` and `items` waits for the next night."""
    leaves(root).compute_revision()
    kaggle.datasets["ours/leaves"][3] = zipped(LEAVES)
    assert contents(leaves(root)) == MORE_LEAVES
    leaves(root).compute_revision()
    assert contents(leaves(root)) == LEAVES


def test_the_inventory_says_what_was_fetched_and_the_archive_is_gone(kaggle: FakeKaggle, root: Root) -> None:
    """It counts files and bytes; nothing else is left beside the files, and nothing outside of the root."""
    contents(leaves(root, version=1))
    (folder,) = root.path.glob("sources/*/1")
    assert sorted(path.name for path in folder.iterdir()) == ["files", "inventory.json"]
    text = (folder / "inventory.json").read_text()
    assert '"file_count": 3' in text
    assert '"unpacked_bytes": 15000' in text
    assert not (root.path.parent / "home").exists()


@pytest.mark.parametrize("fault", [429, 503])
@pytest.mark.parametrize("request_line", ["/GetDataset", "/DownloadDataset", "GET /storage/"], ids=["lookup", "download", "storage"])
def test_a_busy_server_is_asked_again(kaggle: FakeKaggle, root: Root, fault: int, request_line: str) -> None:
    """429 and 503 delay a fetch and do not end it."""
    kaggle.fail(request_line, fault)
    leaves(root).compute_revision()
    assert contents(leaves(root)) == MORE_LEAVES


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_goes_on(kaggle: FakeKaggle, root: Root, digests: bool, ranges: bool) -> None:
    """A connection that breaks in the middle leaves the files whole, whether the storage can take up a download or not."""
    kaggle.digests, kaggle.ranges = digests, ranges
    kaggle.fail("GET /storage/", "cut", "pass", "cut")
    assert contents(leaves(root, handle="ours/forest")) == FOREST


def test_a_cut_download_goes_on_in_the_next_build(kaggle: FakeKaggle, root: Root) -> None:
    """What came before patience was over is kept, and never taken for the whole."""
    kaggle.fail("GET /storage/", "cut", *["pass", "cut"] * 2)
    with pytest.raises(SourceUnreachable):
        contents(leaves(root, handle="ours/forest"))
    (archive,) = root.path.glob("sources/*/1/archive")
    assert archive.stat().st_size == 1 << 20
    assert contents(leaves(root, handle="ours/forest")) == FOREST
    assert kaggle.requests[-1].endswith("bytes=1048576-")


def test_a_download_whose_rest_is_refused_starts_anew(kaggle: FakeKaggle, root: Root) -> None:
    """The words of a 503 that answers the request for the rest are not taken for the rest."""
    kaggle.fail("GET /storage/", "cut", "pass", 503)
    assert contents(leaves(root, handle="ours/forest")) == FOREST


def test_a_silent_server_is_not_waited_for_for_ever(kaggle: FakeKaggle, root: Root) -> None:
    """A request without an answer ends at the time-out and is made again."""
    kaggle.fail("/DownloadDataset", "silent")
    assert contents(leaves(root)) == MORE_LEAVES


def test_an_archive_with_another_digest_is_refused(kaggle: FakeKaggle, root: Root) -> None:
    """An archive whose MD5 is not the provider's is never unpacked, and is fetched anew by the next build."""
    kaggle.fail("GET /storage/", "garbled")
    with pytest.raises(DamagedFile, match="archive is damaged"):
        contents(leaves(root))
    assert not list(root.path.glob("sources/*/*/files"))
    assert contents(leaves(root)) == MORE_LEAVES


def test_an_archive_left_whole_but_wrong_is_refused(kaggle: FakeKaggle, root: Root) -> None:
    """A leftover of the right length is not believed for its length: the archive is fetched anew."""
    ours = leaves(root, version=1)
    folder = root.source(ours._slug, "1")
    folder.mkdir(parents=True)
    (folder / "archive").write_bytes(bytes(len(zipped(LEAVES))))
    assert contents(ours) == LEAVES


def test_an_archive_that_does_not_unpack_is_refused(kaggle: FakeKaggle, root: Root) -> None:
    """Without a digest from the provider the archive's own checksums decide."""
    kaggle.digests = False
    kaggle.fail("GET /storage/", "garbled")
    with pytest.raises(DamagedFile, match="archive is damaged"):
        contents(leaves(root))
    assert not list(root.path.glob("sources/*/*/files"))


@pytest.mark.parametrize("packed", [zipped, tarred])
@pytest.mark.parametrize(
    ("members", "links"),
    [({"../evil.png": b"evil"}, {}), ({"/evil.png": b"evil"}, {}), ({}, {"leaves/evil.png": "/etc/hostname"})],
    ids=["parent", "absolute", "link"],
)
def test_an_archive_that_leads_out_is_refused(
    kaggle: FakeKaggle, root: Root, packed: object, members: dict[str, bytes], links: dict[str, str]
) -> None:
    """A member with a path out of the folder, or a link, stops the fetch before anything is unpacked."""
    assert callable(packed)
    kaggle.datasets["ours/leaves"][3] = packed(LEAVES | members, links)
    with pytest.raises(InputError, match="outside of its folder"):
        contents(leaves(root))
    assert not list(root.path.glob("sources/**/*.png"))
    assert not list(root.path.parent.rglob("evil.png"))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"handle": "ours/nothing"}, "no such data set or version"),
        ({"version": 9}, "no such data set or version"),
        ({"subdir": "leafs"}, "nearest: leaves"),
        ({"subdir": "../.."}, "no such folder"),
    ],
)
def test_what_the_data_set_lacks_is_named(kaggle: FakeKaggle, root: Root, change: dict[str, object], what: str) -> None:
    """A data set, version or folder that is not there is an InputError with what to mend."""
    with pytest.raises(InputError, match=what):
        contents(leaves(root, **change))


def test_a_private_data_set_says_how_to_get_in(kaggle: FakeKaggle, root: Root) -> None:
    """A refusal is an InputError whose next step is to log in."""
    kaggle.private.add("ours/leaves")
    with pytest.raises(InputError, match="log in"):
        leaves(root).compute_revision()


def test_without_a_network_the_error_is_one_that_is_tried_again(kaggle: FakeKaggle, root: Root) -> None:
    """A refused connection is a SourceUnreachable, which the tasks' retry policy counts among the passing faults."""
    kaggle.close()
    with pytest.raises(SourceUnreachable, match="cannot be reached") as told:
        leaves(root).compute_revision()
    assert isinstance(told.value, TRANSIENT_ERRORS)
