"""Data sets of the Hugging Face Hub, read from a fake hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from indexmill.configs.datasets import HuggingFaceDatasetConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.huggingface import HuggingFaceSource
from tests.sources.fake_hub import FakeHub
from tests.sources.fake_kaggle import make_zip
from tests.sources.hub_datasets import (
    IMAGES,
    make_image_source,
    make_jpeg,
    make_png,
    make_text_parquet,
    make_text_source,
    open_fake_hub,
    read_images,
)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with open_fake_hub(monkeypatch, tmp_path) as server:
        yield server


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["downloaded", "streamed"])
def test_images_keep_the_bytes_the_data_set_holds(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """Every image is a file with exactly the bytes of its row, whether the repository is downloaded or streamed."""
    assert read_images(make_image_source(root, streaming_above_bytes=streaming_above)) == IMAGES


def test_rows_become_items_with_labels_captions_sizes_and_times(hub: FakeHub, root: Root) -> None:
    """Keys number the rows of a split, class numbers become names (-1 none), size and time are the file's."""
    source = make_image_source(root)
    items = list(source.items())
    assert (source.modality, source.labeled, list(source.pairs())) == ("image", True, [])
    assert [item.key for item in items] == [f"train/0000000{number}" for number in range(4)]
    assert [item.label for item in items] == ["cat", "dog", "cat", None]
    assert [item.text for item in items] == ["a cat", "a dog", None, "who knows"]
    stats = [(source.image_root / str(item.path)).stat() for item in items] if source.image_root else []
    assert [(item.size, item.mtime_ns) for item in items] == [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    assert {item.split for item in items} == {"train"}


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["downloaded", "streamed"])
def test_a_repository_of_image_files_keeps_the_files(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """Where rows only name image files, the files' own bytes are kept, and folders are labels."""
    source = make_image_source(root, id="ours/folders", text_column=None, streaming_above_bytes=streaming_above)
    content_by_label = {item.label: (source.image_root / str(item.path)).read_bytes() for item in source.items() if source.image_root}
    assert content_by_label == {"oak": make_png(0), "elm": make_png(1)}


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["downloaded", "streamed"])
def test_several_splits_of_texts_are_listed_one_after_the_other(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """A key column names the rows within their split; texts have no path and no image root."""
    source = make_text_source(
        root, split=("train", "test"), key_column="number", label_column="topic", streaming_above_bytes=streaming_above
    )
    assert list(source.items()) == [
        Item(key="train/0", label="news", text="one", split="train"),
        Item(key="train/1", label="news", text="two", split="train"),
        Item(key="train/2", label="news", text="three", split="train"),
        Item(key="test/0", label="news", text="four", split="test"),
    ]
    assert (source.modality, source.image_root) == ("text", None)


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["downloaded", "streamed"])
def test_a_configuration_selects_its_files(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """The data set's card states the files of a configuration; here CSV, whose columns are known only from its rows."""
    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.csv\n" for name in ("en", "fr")
    )
    hub.datasets["ours/tongues"] = {
        "README.md": f"---\n{card}---\n".encode(),
        "en.csv": b"text,sort\nyes,1\nno,2\n",
        "fr.csv": b"text,sort\noui,1\n",
    }
    settings: dict[str, object] = {
        "id": "ours/tongues",
        "text_column": "text",
        "label_column": "sort",
        "streaming_above_bytes": streaming_above,
    }
    assert [(item.text, item.label) for item in make_text_source(root, config="fr", **settings).items()] == [("oui", "1")]
    assert [(item.text, item.label) for item in make_text_source(root, config="en", **settings).items()] == [("yes", "1"), ("no", "2")]
    with pytest.raises(InputError, match=r"\['en', 'fr'\]"):
        list(make_text_source(root, **settings).items())


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["downloaded", "streamed"])
def test_images_in_a_zip_keep_their_bytes(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """Images that rows name inside the repository's own archive are read from it."""
    hub.datasets["ours/packed"] = {"train.zip": make_zip({"trees/0.png": make_png(0), "trees/1.jpg": make_jpeg(1)})}
    source = make_image_source(root, id="ours/packed", text_column=None, label_column=None, streaming_above_bytes=streaming_above)
    assert read_images(source) == [make_png(0), make_jpeg(1)]


def test_open_source_opens_a_hub_data_set(hub: FakeHub, root: Root) -> None:
    """The config's type selects the source."""
    config = HuggingFaceDatasetConfig(source="huggingface", id="ours/texts", text_column="sentence")
    assert isinstance(open_source(config, root), HuggingFaceSource)


def test_compute_revision_downloads_nothing(hub: FakeHub, root: Root) -> None:
    """One small request returns the commit."""
    make_text_source(root).compute_revision()
    assert len(hub.requests) == 1


def test_the_revision_changes_with_the_commit_and_the_columns(hub: FakeHub, root: Root) -> None:
    """The same commit and columns give the same revision; another commit or another column gives another."""
    first = make_text_source(root).compute_revision()
    assert make_text_source(root).compute_revision() == first
    assert make_text_source(root, label_column="topic").compute_revision() != first
    hub.datasets["ours/texts"]["README.md"] = b"# Texts, fixed\n"
    assert make_text_source(root).compute_revision() != first


def test_a_downloaded_commit_is_not_downloaded_again(hub: FakeHub, root: Root) -> None:
    """With an inventory, items come from disk: no download, and without `compute_revision` no request at all."""
    make_text_source(root).compute_revision()
    before = list(make_text_source(root).items())
    request_count = len(hub.requests)
    assert list(make_text_source(root).items()) == before
    assert len(hub.requests) == request_count
    downloads = hub.count_downloads()
    source = make_text_source(root)
    source.compute_revision()
    assert list(source.items()) == before
    assert hub.count_downloads() == downloads


def test_items_are_those_of_the_pinned_commit(hub: FakeHub, root: Root) -> None:
    """A commit that appears between `compute_revision` and `items` waits for the next build."""
    make_text_source(root).compute_revision()
    items = list(make_text_source(root).items())
    hub.datasets["ours/texts"]["data/train-00000-of-00001.parquet"] = make_text_parquet("other")
    assert list(make_text_source(root).items()) == items
    assert make_text_source(root).compute_revision()
    assert [item.text for item in make_text_source(root).items()] == ["other"]


def test_the_inventory_describes_the_download(hub: FakeHub, root: Root) -> None:
    """It names the commit and the columns, and counts the rows of each split."""
    list(make_text_source(root, split=("train", "test")).items())
    (inventory,) = root.path.glob("sources/*/*/inventory.json")
    assert inventory.parent.name == hub.compute_commit("ours/texts")
    text = inventory.read_text()
    assert '"train": 3' in text
    assert '"test": 1' in text
    assert '"text": "sentence"' in text


def test_nothing_is_written_outside_of_the_root(hub: FakeHub, root: Root, tmp_path: Path) -> None:
    """Neither downloading nor streaming leaves files in the library's default cache."""
    list(make_text_source(root).items())
    list(make_text_source(root, streaming_above_bytes=0, label_column="topic").items())
    assert not (tmp_path / "home").exists()


def test_a_full_commit_needs_no_network_once_downloaded(hub: FakeHub, root: Root) -> None:
    """With a commit as the revision, `compute_revision` and `items` work offline, with the same results."""
    source = make_text_source(root, revision=hub.compute_commit("ours/texts"))
    revision, items = source.compute_revision(), list(source.items())
    hub.close()
    offline = make_text_source(root, revision=hub.compute_commit("ours/texts"))
    assert (offline.compute_revision(), list(offline.items())) == (revision, items)
