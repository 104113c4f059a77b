"""A folder of images in a bucket: the same items as on disk, and only what is new is downloaded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from indexmill.configs.datasets import FolderDatasetConfig
from indexmill.storage.errors import InputError
from indexmill.storage.garbage_collection import collect_garbage
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.records import Dataset
from indexmill.storage.root import Root
from indexmill.tasks.ingest import describe_stale_listing, ingest
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.remote_files import RemoteFiles
from indexmill.tasks.sources.revisions import read_source_revision
from indexmill.tasks.sources.web_client import FetchFailure
from tests.stage_inputs import read_rows


def upload(url: str, folder: Path) -> ObjectClient:
    client = ObjectClient(url)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put(path.relative_to(folder).as_posix(), path.read_bytes())
    return client


def run_ingest(root: Root, location: str | Path, **settings: Any) -> Dataset:
    config = FolderDatasetConfig(source="folder", path=str(location), **settings)
    return ingest.fn(root, "some", config, read_source_revision(config, root))


def describe(root: Root, dataset: Dataset) -> list[tuple[Any, ...]]:
    """The items without their paths, which differ."""
    return [tuple(row[name] for name in ("key", "label", "text", "content_digest", "fault")) for row in read_rows(root, dataset.table)]


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs whose content was asked for."""
    urls: list[str] = []
    fetch = RemoteFiles.fetch

    def record(self: RemoteFiles, url: str, *args: Any, **options: Any) -> Any:
        urls.append(url.rpartition("/")[2])
        return fetch(self, url, *args, **options)

    monkeypatch.setattr(RemoteFiles, "fetch", record)
    return urls


@pytest.fixture
def captioned(pictures: Path) -> Path:
    """Images with names that sort differently as keys, captions beside two of them, and files that are no images."""
    first, second, third, *_ = sorted(pictures.glob("*/*.png"))
    (pictures / "a").mkdir()
    for name, image in (("z.png", first), ("b.c.png", second)):
        (pictures / "a" / name).write_bytes(image.read_bytes())
    (pictures / "a.b").mkdir()
    (pictures / "a.b" / "ä 1.png").write_bytes(third.read_bytes())
    (pictures / "a" / "z.txt").write_text("a caption")
    (pictures / "a.b" / "ä 1.txt").write_text("ein Bild")
    (pictures / "a" / "README.md").write_text("no image")
    (pictures / ".hidden.png").write_bytes(b"")
    return pictures


@pytest.mark.parametrize("settings", [{}, {"captions": "text"}, {"labels": "none", "limit": 30}])
def test_a_bucket_has_the_items_of_the_same_folder(root: Root, bucket_url: str, captioned: Path, settings: dict[str, Any]) -> None:
    """Keys, labels, captions, contents, the sample of a limit, and what was skipped are the same."""
    upload(bucket_url, captioned)
    remote, local = run_ingest(root, bucket_url, **settings), run_ingest(root, captioned, **settings)
    assert describe(root, remote) == describe(root, local)
    assert (remote.skipped, remote.unreadable_files) == (local.skipped, 0)
    assert remote.items == settings.get("limit", 123)


@pytest.mark.slow
def test_metadata_files_are_read(root: Root, bucket_url: str, pictures: Path) -> None:
    """Rows of a metadata.csv give labels and captions, and one without an image is listed."""
    names = sorted(path.name for path in (pictures / "3").iterdir())
    rows = [f"{name},three,caption {number}" for number, name in enumerate(names)]
    (pictures / "3" / "metadata.csv").write_text("\n".join(["file_name,label,text", *rows, "gone.png,three,none"]))
    upload(bucket_url, pictures)
    settings = {"labels": "metadata", "captions": "metadata"}
    assert describe(root, run_ingest(root, bucket_url, **settings)) == describe(root, run_ingest(root, pictures, **settings))


def test_only_new_and_changed_objects_are_downloaded(root: Root, bucket_url: str, pictures: Path, downloads: list[str]) -> None:
    """An unchanged night downloads nothing; a changed, a new and a removed object cost two downloads."""
    client = upload(bucket_url, pictures)
    before = run_ingest(root, bucket_url)
    assert len(downloads) == before.items == 120
    downloads.clear()
    assert run_ingest(root, bucket_url).digest == before.digest
    assert downloads == []
    first, second, third, *_ = sorted(path.relative_to(pictures).as_posix() for path in pictures.glob("*/*.png"))
    client.put(first, (pictures / second).read_bytes())
    client.put("0/new.png", (pictures / third).read_bytes())
    client.delete(third)
    after = run_ingest(root, bucket_url)
    assert (after.items, sorted(downloads)) == (120, sorted([first.rpartition("/")[2], "new.png"]))
    digests = {row["key"]: row["content_digest"] for row in read_rows(root, after.table)}
    assert digests[first] == digests[second]
    assert third not in digests


def test_with_a_limit_only_the_sample_is_downloaded(root: Root, bucket_url: str, pictures: Path, downloads: list[str]) -> None:
    """The listing is sampled before anything is asked for."""
    upload(bucket_url, pictures)
    assert run_ingest(root, bucket_url, limit=7).items == len(downloads) == 7


def test_an_object_that_fails_is_a_reject_and_is_tried_again(
    root: Root, bucket_url: str, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is too large, one that vanished and one that changed after the listing; the listing counts as stale."""
    upload(bucket_url, pictures)
    gone, changed, *_ = sorted(path.relative_to(pictures).as_posix() for path in pictures.glob("*/*.png"))
    sizes = sorted(path.stat().st_size for path in pictures.glob("*/*.png"))
    config = FolderDatasetConfig(source="folder", path=bucket_url, downloads={"max_bytes": sizes[-2]})
    source = open_source(config, root)
    list_items = type(source).items

    def items(self: Any) -> Any:
        listed = list(list_items(self))
        ObjectClient(bucket_url).delete(gone)
        ObjectClient(bucket_url).put(changed, b"other")
        return iter(listed)

    with monkeypatch.context() as patch:
        patch.setattr(type(source), "items", items)
        dataset = ingest.fn(root, "some", config, "r")
    assert describe_stale_listing(dataset) == "3 files could not be read"
    failed = {row["fault_reason"]: row["key"] for row in read_rows(root, dataset.table) if row["fault"]}
    assert failed.keys() == {"changed", "file_too_large", "not_found"}
    assert (failed["not_found"], failed["changed"]) == (gone, changed)
    ObjectClient(bucket_url).put(gone, (pictures / gone).read_bytes())
    again = ingest.fn(root, "some", config, "r")
    assert again.unreadable_files == 1
    assert open_source(config, root).downloads.fetch_images([]) == {}  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_killed_build_keeps_its_downloads(root: Root, bucket_url: str, pictures: Path, downloads: list[str]) -> None:
    """What was downloaded before an error is not asked for again, though no record was written."""
    upload(bucket_url, pictures)
    failing = RemoteFiles.fetch
    with pytest.MonkeyPatch.context() as patch:

        def fail(self: RemoteFiles, url: str, *args: Any, **options: Any) -> Any:
            if len(downloads) >= 50:
                raise KeyboardInterrupt
            return failing(self, url, *args, **options)

        patch.setattr(RemoteFiles, "fetch", fail)
        with pytest.raises(KeyboardInterrupt):
            run_ingest(root, bucket_url)
    copies = list((root.path / "sources").rglob("*.png"))
    downloads.clear()
    run_ingest(root, bucket_url)
    assert 40 <= len(copies) <= 60
    assert len(downloads) == 120 - len(copies)


def test_a_web_address_is_no_folder(root: Root) -> None:
    """A web server lists nothing."""
    with pytest.raises(InputError, match="a web server has no listing"):
        open_source(FolderDatasetConfig(source="folder", path="https://example.com/images"), root)


def test_a_caption_that_fails_ends_the_build(root: Root, bucket_url: str, pictures: Path) -> None:
    """It is an error that is retried, and not an image without a caption."""
    upload(bucket_url, pictures)
    ObjectClient(bucket_url).put("0/x.txt", b"caption")
    source = open_source(FolderDatasetConfig(source="folder", path=bucket_url, captions="text"), root)
    failure = FetchFailure("unreachable", "503")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source.downloads, "fetch_images", lambda images: {image.path: failure for image in images})  # type: ignore[attr-defined]
        with pytest.raises(ConnectionError, match="a caption cannot be downloaded"):
            list(source.items())


@pytest.mark.slow
def test_images_that_do_not_fit_on_the_disk_are_not_downloaded(
    root: Root, bucket_url: str, pictures: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is asked for; copies that are here already are not counted."""
    upload(bucket_url, pictures)
    total = sum(path.stat().st_size for path in pictures.rglob("*.png"))
    free = shutil.disk_usage(root.path)._replace(free=total - 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: free)
        with pytest.raises(InputError, match="the images do not fit on this disk"):
            run_ingest(root, bucket_url)
        assert downloads == []
        patch.setattr(shutil, "disk_usage", lambda path: free._replace(free=total))
        assert run_ingest(root, bucket_url).downloaded_bytes == total
        patch.setattr(shutil, "disk_usage", lambda path: free._replace(free=0))
        next((root.path / "datasets" / "some" / "cache").iterdir()).unlink()  # what is here is not known any more
        assert run_ingest(root, bucket_url).downloaded_bytes == total


@pytest.mark.slow
def test_garbage_collection_removes_copies_that_nothing_names(root: Root, bucket_url: str, pictures: Path, downloads: list[str]) -> None:
    """Of four versions of an image, the listings of the last two builds are kept; what they name stays."""
    client = upload(bucket_url, pictures)
    name = next(path.relative_to(pictures).as_posix() for path in sorted(pictures.glob("*/*.png")))
    contents = [(pictures / name).read_bytes(), b"second", b"third, longer", b"fourth"]
    for content in contents:
        client.put(name, content)
        dataset = run_ingest(root, bucket_url)
    folder = Path(str(dataset.image_root))
    assert collect_garbage(root, days=1, dry_run=True) == []
    planned = [garbage for garbage in collect_garbage(root, days=0, dry_run=True) if garbage.kind == "image copies"]
    assert [(garbage.path, garbage.bytes) for garbage in planned] == [
        (folder.relative_to(root.path).as_posix(), len(contents[0]) + len(contents[1]))
    ]
    assert [garbage for garbage in collect_garbage(root, days=0) if garbage.kind == "image copies"] == planned
    left = {path.read_bytes() for path in folder.rglob("*.png")}
    assert left == {path.read_bytes() for path in pictures.glob("*/*.png")} - {contents[0]} | set(contents[2:])
    downloads.clear()
    assert run_ingest(root, bucket_url).digest == dataset.digest
    assert downloads == []
