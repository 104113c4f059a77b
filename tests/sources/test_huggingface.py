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
from tests.sources.fake_kaggle import zipped
from tests.sources.hub_datasets import PICTURES, contents, jpeg, opened, pictures, png, texts, texts_parquet


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with opened(monkeypatch, tmp_path) as standin:
        yield standin


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_images_keep_the_bytes_the_data_set_holds(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """Every image is a file with exactly the bytes of its row, whether the repository was fetched or streamed."""
    assert contents(pictures(root, streaming_above_bytes=streaming_above)) == PICTURES


def test_rows_become_items_with_labels_captions_and_stats(hub: FakeHub, root: Root) -> None:
    """Keys number the rows of a split, class numbers become names (-1 none), captions are texts, sizes and times are the file's."""
    ours = pictures(root)
    items = list(ours.items())
    assert (ours.modality, ours.labeled, list(ours.pairs())) == ("image", True, [])
    assert [item.key for item in items] == [f"train/0000000{number}" for number in range(4)]
    assert [item.label for item in items] == ["cat", "dog", "cat", None]
    assert [item.text for item in items] == ["a cat", "a dog", None, "who knows"]
    stats = [(ours.image_root / str(item.path)).stat() for item in items] if ours.image_root else []
    assert [(item.size, item.mtime_ns) for item in items] == [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    assert {item.split for item in items} == {"train"}


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_a_repository_of_image_files_gives_the_files(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """Where rows only name image files, the files' own bytes are kept, and folders are labels."""
    ours = pictures(root, id="ours/folders", text_column=None, streaming_above_bytes=streaming_above)
    kept = {item.label: (ours.image_root / str(item.path)).read_bytes() for item in ours.items() if ours.image_root}
    assert kept == {"oak": png(0), "elm": png(1)}


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_several_splits_of_texts_are_listed_one_after_the_other(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """A key column names the rows below their split; texts have no path and no base."""
    ours = texts(root, split=("train", "test"), key_column="number", label_column="topic", streaming_above_bytes=streaming_above)
    assert list(ours.items()) == [
        Item(key="train/0", label="news", text="one", split="train"),
        Item(key="train/1", label="news", text="two", split="train"),
        Item(key="train/2", label="news", text="three", split="train"),
        Item(key="test/0", label="news", text="four", split="test"),
    ]
    assert (ours.modality, ours.image_root) == ("text", None)


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_a_configuration_chooses_its_files(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """The data set's card tells which files a configuration has; here CSV, whose columns are known only from its rows."""
    card = "configs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.csv\n" for name in ("en", "fr")
    )
    hub.datasets["ours/tongues"] = {
        "README.md": f"---\n{card}---\n".encode(),
        "en.csv": b"text,sort\nyes,1\nno,2\n",
        "fr.csv": b"text,sort\noui,1\n",
    }
    choice: dict[str, object] = {
        "id": "ours/tongues",
        "text_column": "text",
        "label_column": "sort",
        "streaming_above_bytes": streaming_above,
    }
    assert [(item.text, item.label) for item in texts(root, config="fr", **choice).items()] == [("oui", "1")]
    assert [(item.text, item.label) for item in texts(root, config="en", **choice).items()] == [("yes", "1"), ("no", "2")]
    with pytest.raises(InputError, match=r"\['en', 'fr'\]"):
        list(texts(root, **choice).items())


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_images_in_a_zip_keep_their_bytes(hub: FakeHub, root: Root, streaming_above: int) -> None:
    """Where rows name images inside of the repository's own archive, those are read from it."""
    hub.datasets["ours/packed"] = {"train.zip": zipped({"trees/0.png": png(0), "trees/1.jpg": jpeg(1)})}
    ours = pictures(root, id="ours/packed", text_column=None, label_column=None, streaming_above_bytes=streaming_above)
    assert contents(ours) == [png(0), jpeg(1)]


def test_open_source_opens_a_hub_data_set(hub: FakeHub, root: Root) -> None:
    """The config's kind is all that is needed to open it."""
    config = HuggingFaceDatasetConfig(source="huggingface", id="ours/texts", text_column="sentence")
    assert isinstance(open_source(config, root), HuggingFaceSource)


def test_revision_downloads_nothing(hub: FakeHub, root: Root) -> None:
    """One small request tells the commit."""
    texts(root).compute_revision()
    assert len(hub.requests) == 1


def test_revision_changes_with_the_commit_and_with_the_columns(hub: FakeHub, root: Root) -> None:
    """The same commit and columns give the same revision; another commit or another column gives another."""
    first = texts(root).compute_revision()
    assert texts(root).compute_revision() == first
    assert texts(root, label_column="topic").compute_revision() != first
    hub.datasets["ours/texts"]["README.md"] = b"# Texts, mended\n"
    assert texts(root).compute_revision() != first


def test_a_fetched_commit_is_not_fetched_again(hub: FakeHub, root: Root) -> None:
    """Once the inventory is there, items come from disk: no download, and without `revision` no request at all."""
    texts(root).compute_revision()
    before = list(texts(root).items())
    asked = len(hub.requests)
    assert list(texts(root).items()) == before
    assert len(hub.requests) == asked
    downloads = hub.downloads()
    again = texts(root)
    again.compute_revision()
    assert list(again.items()) == before
    assert hub.downloads() == downloads


def test_items_are_those_of_the_announced_commit(hub: FakeHub, root: Root) -> None:
    """A commit that arrives between `revision` and `items` waits for the next night."""
    texts(root).compute_revision()
    listed = list(texts(root).items())
    hub.datasets["ours/texts"]["data/train-00000-of-00001.parquet"] = texts_parquet("other")
    assert list(texts(root).items()) == listed
    assert texts(root).compute_revision()
    assert [item.text for item in texts(root).items()] == ["other"]


def test_the_inventory_says_what_was_fetched(hub: FakeHub, root: Root) -> None:
    """It names the data set, the commit, the columns and the rows of each split."""
    list(texts(root, split=("train", "test")).items())
    (inventory,) = root.path.glob("sources/*/*/inventory.json")
    assert inventory.parent.name == hub.commit("ours/texts")
    text = inventory.read_text()
    assert '"train": 3' in text
    assert '"test": 1' in text
    assert '"text": "sentence"' in text


def test_nothing_is_written_outside_of_the_root(hub: FakeHub, root: Root, tmp_path: Path) -> None:
    """Neither fetching nor streaming leaves files in the library's default cache."""
    list(texts(root).items())
    list(texts(root, streaming_above_bytes=0, label_column="topic").items())
    assert not (tmp_path / "home").exists()


def test_a_full_commit_needs_no_network_once_fetched(hub: FakeHub, root: Root) -> None:
    """With a commit as the revision both `revision` and `items` work offline, with the same answers."""
    ours = texts(root, revision=hub.commit("ours/texts"))
    revision, items = ours.compute_revision(), list(ours.items())
    hub.close()
    offline = texts(root, revision=hub.commit("ours/texts"))
    assert (offline.compute_revision(), list(offline.items())) == (revision, items)
