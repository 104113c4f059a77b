from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from indexmill.configs.datasets import HuggingFaceDatasetConfig
from indexmill.storage.errors import DamagedFile, InputError, SourceUnreachable
from indexmill.storage.root import Root
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.huggingface import HuggingFaceSource
from indexmill.tasks.stage_policy import TRANSIENT_ERRORS
from tests.sources.fake_hub import FakeHub
from tests.sources.faulty_server import SILENCE_S
from tests.sources.hub_datasets import PICTURES, contents, opened, pictures, png, texts


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with opened(monkeypatch, tmp_path) as standin:
        yield standin


def test_rows_that_the_library_cannot_make_out_are_told(hub: FakeHub, root: Root) -> None:
    """A damaged table is an InputError with the library's own words, not a traceback."""
    hub.datasets["ours/texts"]["data/train-00000-of-00001.parquet"] = b"no table"
    with pytest.raises(InputError, match="cannot be read"):
        list(texts(root).items())


@pytest.mark.parametrize("fault", [429, 503])
@pytest.mark.parametrize("request_line", ["GET /api/datasets/ours/texts/revision", "GET /cdn/"], ids=["lookup", "file"])
def test_a_busy_hub_is_asked_again(hub: FakeHub, root: Root, fault: int, request_line: str) -> None:
    """429 and 503 delay a fetch and do not end it."""
    hub.fail(request_line, fault)
    texts(root).compute_revision()
    assert [item.text for item in texts(root).items()] == ["one", "two", "three"]


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_a_cut_download_goes_on(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """A connection that breaks in the middle of a file leaves the images whole."""
    hub.fail("GET /cdn/", "cut")
    assert contents(pictures(root, streaming_above_bytes=streaming_above)) == PICTURES


def test_a_killed_fetch_goes_on_where_it_was(hub: FakeHub, root: Root) -> None:
    """Without an inventory the fetch is taken up: files in the cache are not downloaded, images that are there are not rewritten."""
    ours = pictures(root)
    items = list(ours.items())
    assert ours.image_root is not None
    first, second = (ours.image_root / str(item.path) for item in items[:2])
    before, downloads = first.stat(), hub.downloads()
    second.unlink()
    (ours.image_root / "inventory.json").unlink()
    (ours.image_root / "rows-train.parquet").unlink()
    assert contents(pictures(root)) == PICTURES
    now = first.stat()  # reading it changes its access time
    assert (now.st_ino, now.st_size, now.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert hub.downloads() == downloads


@pytest.mark.parametrize("request_line", ["GET /cdn/", "GET /datasets/ours/texts/resolve"], ids=["large", "small"])
def test_a_file_with_another_digest_is_refused(hub: FakeHub, root: Root, request_line: str) -> None:
    """A file whose bytes are not those the hub tells of is never read, and is fetched anew by the next build."""
    hub.fail(request_line, "garbled")
    with pytest.raises(DamagedFile, match="does not match the hub"):
        list(texts(root).items())
    assert not list(root.path.glob("sources/*/*/inventory.json"))
    assert [item.text for item in texts(root).items()] == ["one", "two", "three"]


def test_a_file_with_another_size_is_refused(hub: FakeHub, root: Root) -> None:
    """A file that ends early without a broken connection is not believed."""
    hub.fail("GET /cdn/", *["short"] * 20)
    with pytest.raises(DamagedFile, match="does not match the hub"):
        list(texts(root).items())


def test_an_image_that_changed_on_disk_is_told(hub: FakeHub, root: Root) -> None:
    """An image that is no longer as it was fetched stops the listing with the folder to remove."""
    ours = pictures(root)
    item = next(ours.items())
    assert ours.image_root is not None
    (ours.image_root / str(item.path)).write_bytes(b"cut")
    with pytest.raises(DamagedFile, match="remove"):
        list(pictures(root).items())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"id": "ours/nothing"}, "not on the hub"),
        ({"revision": "v9"}, "no such revision"),
        ({"revision": "0" * 40}, "no such revision"),
        ({"split": "trian"}, "nearest: train"),
        ({"config": "french"}, "BuilderConfig 'french' not found"),
        ({"text_column": "sentense"}, "nearest: sentence"),
        ({"label_column": "sort"}, "number, sentence, topic"),
    ],
)
def test_what_the_data_set_lacks_is_named(hub: FakeHub, root: Root, change: dict[str, object], what: str) -> None:
    """A data set, revision, configuration, split or column that is not there is an InputError that says what is."""
    ours = texts(root, **change)
    with pytest.raises(InputError, match=what):
        list(ours.items()) if ours.compute_revision() else None


def test_a_gated_data_set_says_how_to_get_in(hub: FakeHub, root: Root) -> None:
    """Gated files are an InputError whose next step is to accept the terms and log in."""
    hub.gated.add("ours/texts")
    with pytest.raises(InputError, match="accept its terms"):
        list(texts(root).items())


def test_a_row_may_not_name_a_file_of_this_machine(hub: FakeHub, root: Root, tmp_path: Path) -> None:
    """A path in a row that leads out of the data set is refused, and nothing of it is copied."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(secret)}]}, features=datasets.Features(image=datasets.Image()))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    hub.datasets["ours/sly"] = {"train.parquet": (tmp_path / "rows.parquet").read_bytes()}
    with pytest.raises(InputError, match="outside of its data set"):
        list(pictures(root, id="ours/sly", text_column=None, label_column=None).items())


def test_without_a_network_the_error_is_one_that_is_tried_again(hub: FakeHub, root: Root) -> None:
    """A refused connection is a SourceUnreachable, which the tasks' retry policy counts among the passing faults."""
    hub.close()
    with pytest.raises(SourceUnreachable, match="cannot be reached") as told:
        texts(root).compute_revision()
    assert isinstance(told.value, TRANSIENT_ERRORS)


def test_a_silent_hub_is_not_waited_for_for_ever(hub: FakeHub, root: Root) -> None:
    """Listing a repository, for which the library names no time-out, ends at ours and is tried again."""
    hub.fail("/tree/", "silent")
    config = HuggingFaceDatasetConfig(source="huggingface", id="ours/texts", text_column="sentence")
    started = time.monotonic()
    assert len(list(HuggingFaceSource(config, root, RetryPolicy(attempts=2, first_wait_s=0.01, timeout_s=0.5)).items())) == 3
    assert time.monotonic() - started < SILENCE_S / 2


def test_a_row_may_not_leave_its_data_set_by_a_chained_path(hub: FakeHub, root: Root) -> None:
    """Only zip archives of the data set itself are opened on the way to a file."""
    ours = texts(root)
    list(ours.items())
    with pytest.raises(InputError, match="outside of its data set"):
        ours._hub.read_file(f"file:///etc/hostname::{ours._hub._location}/README.md")
    assert ours._hub.read_file(f"{ours._hub._location}/README.md") == b"# Texts\n"
