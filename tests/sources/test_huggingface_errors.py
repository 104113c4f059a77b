"""Errors of hub data sets: bad networks, damaged files, wrong configs."""

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
from tests.sources.hub_datasets import IMAGES, make_image_source, make_png, make_text_source, open_fake_hub, read_images


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with open_fake_hub(monkeypatch, tmp_path) as server:
        yield server


def test_rows_that_the_library_cannot_read_are_an_input_error(hub: FakeHub, root: Root) -> None:
    """A damaged table is an InputError with the library's message, not a traceback."""
    hub.datasets["ours/texts"]["data/train-00000-of-00001.parquet"] = b"not a table"
    with pytest.raises(InputError, match="cannot be read"):
        list(make_text_source(root).items())


@pytest.mark.parametrize("fault", [429, 503])
@pytest.mark.parametrize("request_line", ["GET /api/datasets/ours/texts/revision", "GET /cdn/"], ids=["lookup", "file"])
def test_a_request_to_a_busy_hub_is_retried(hub: FakeHub, root: Root, fault: int, request_line: str) -> None:
    """429 and 503 delay a download but do not end it."""
    hub.fail(request_line, fault)
    make_text_source(root).compute_revision()
    assert [item.text for item in make_text_source(root).items()] == ["one", "two", "three"]


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["downloaded", "streamed"])
def test_an_interrupted_download_is_retried(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """A connection that breaks in the middle of a file leaves the images whole."""
    hub.fail("GET /cdn/", "cut")
    assert read_images(make_image_source(root, streaming_above_bytes=streaming_above)) == IMAGES


def test_a_killed_download_is_resumed(hub: FakeHub, root: Root) -> None:
    """Without an inventory, cached files are not downloaded again and images on disk are not rewritten."""
    source = make_image_source(root)
    items = list(source.items())
    assert source.image_root is not None
    first, second = (source.image_root / str(item.path) for item in items[:2])
    before, downloads = first.stat(), hub.count_downloads()
    second.unlink()
    (source.image_root / "inventory.json").unlink()
    (source.image_root / "rows-train.parquet").unlink()
    assert read_images(make_image_source(root)) == IMAGES
    now = first.stat()  # reading it changes its access time
    assert (now.st_ino, now.st_size, now.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert hub.count_downloads() == downloads


@pytest.mark.parametrize("request_line", ["GET /cdn/", "GET /datasets/ours/texts/resolve"], ids=["large", "small"])
def test_a_file_with_another_digest_is_refused(hub: FakeHub, root: Root, request_line: str) -> None:
    """A file that does not match the hub's digest is never read, and the next build downloads it again."""
    hub.fail(request_line, "garbled")
    with pytest.raises(DamagedFile, match="does not match the hub"):
        list(make_text_source(root).items())
    assert not list(root.path.glob("sources/*/*/inventory.json"))
    assert [item.text for item in make_text_source(root).items()] == ["one", "two", "three"]


def test_a_file_with_another_size_is_refused(hub: FakeHub, root: Root) -> None:
    """A file that ends early without a broken connection is not used."""
    hub.fail("GET /cdn/", *["short"] * 20)
    with pytest.raises(DamagedFile, match="does not match the hub"):
        list(make_text_source(root).items())


def test_an_image_that_changed_on_disk_stops_the_listing(hub: FakeHub, root: Root) -> None:
    """The error names the folder to remove."""
    source = make_image_source(root)
    item = next(source.items())
    assert source.image_root is not None
    (source.image_root / str(item.path)).write_bytes(b"cut")
    with pytest.raises(DamagedFile, match="remove"):
        list(make_image_source(root).items())


@pytest.mark.parametrize(
    ("change", "message"),
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
def test_errors_name_what_the_data_set_lacks(hub: FakeHub, root: Root, change: dict[str, object], message: str) -> None:
    """A missing data set, revision, configuration, split or column is an InputError that lists the available ones."""
    source = make_text_source(root, **change)
    with pytest.raises(InputError, match=message):
        list(source.items()) if source.compute_revision() else None


def test_the_error_for_a_gated_data_set_says_how_to_get_access(hub: FakeHub, root: Root) -> None:
    """Gated files are an InputError whose next step is to accept the terms and log in."""
    hub.gated.add("ours/texts")
    with pytest.raises(InputError, match="accept its terms"):
        list(make_text_source(root).items())


def test_a_row_may_not_name_a_local_file(hub: FakeHub, root: Root, tmp_path: Path) -> None:
    """A path in a row that leads out of the data set is refused."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(make_png(1))
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(secret)}]}, features=datasets.Features(image=datasets.Image()))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    hub.datasets["ours/sly"] = {"train.parquet": (tmp_path / "rows.parquet").read_bytes()}
    with pytest.raises(InputError, match="outside of its data set"):
        list(make_image_source(root, id="ours/sly", text_column=None, label_column=None).items())


def test_the_error_without_a_network_is_transient(hub: FakeHub, root: Root) -> None:
    """A refused connection is a SourceUnreachable, which stages retry."""
    hub.close()
    with pytest.raises(SourceUnreachable, match="cannot be reached") as raised:
        make_text_source(root).compute_revision()
    assert isinstance(raised.value, TRANSIENT_ERRORS)


def test_a_silent_hub_times_out(hub: FakeHub, root: Root) -> None:
    """Listing a repository, for which the library sets no timeout, ends at ours and is retried."""
    hub.fail("/tree/", "silent")
    config = HuggingFaceDatasetConfig(source="huggingface", id="ours/texts", text_column="sentence")
    started = time.monotonic()
    assert len(list(HuggingFaceSource(config, root, RetryPolicy(attempts=2, first_wait_s=0.01, timeout_s=2)).items())) == 3
    assert time.monotonic() - started < SILENCE_S / 2


def test_a_row_may_not_leave_its_data_set_by_a_chained_path(hub: FakeHub, root: Root) -> None:
    """Only zip archives of the data set itself may be part of a path."""
    source = make_text_source(root)
    list(source.items())
    with pytest.raises(InputError, match="outside of its data set"):
        source._hub.read_file(f"file:///etc/hostname::{source._hub._location}/README.md")
    assert source._hub.read_file(f"{source._hub._location}/README.md") == b"# Texts\n"
