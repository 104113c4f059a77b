from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import close_session, constants
from PIL import Image

from configs.models import HuggingFaceDataset
from storage.errors import DamagedFile, InputError, SourceUnreachable
from storage.root import Root
from tasks.policy import PASSING
from tasks.sources import open_source
from tasks.sources.downloads import Patience
from tasks.sources.huggingface import HuggingFaceSource
from tasks.sources.listing import Item
from tests.sources.faulty_server import SILENCE_S
from tests.sources.hub_standin import HubStandin
from tests.sources.kaggle_standin import zipped

QUICK = Patience(tries=3, wait_s=0.01, longest_wait_s=0.05, timeout_s=5)


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (0, shade, 0)).save(buffer, "JPEG", quality=40)
    return buffer.getvalue()


PICTURES = [jpeg(10), png(20), jpeg(30), png(40)]


def pictures_parquet(folder: Path) -> bytes:
    """A table of images, class labels and captions as `push_to_hub` writes it."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "caption": datasets.Value("string")}
    )
    rows = {
        "image": [{"bytes": content, "path": f"{number}.jpg"} for number, content in enumerate(PICTURES)],
        "label": [0, 1, 0, -1],
        "caption": ["a cat", "a dog", None, "who knows"],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "pictures.parquet"))
    return (folder / "pictures.parquet").read_bytes()


def texts_parquet(*texts: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"sentence": list(texts), "topic": ["news"] * len(texts), "number": list(range(len(texts)))}), buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandin]:
    """A stand-in that the real library talks to; its data sets have the test's own names."""
    standin = HubStandin()
    point_at(standin.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    standin.datasets["ours/pictures"] = {"README.md": b"# Pictures\n", "data/train-00000-of-00001.parquet": pictures_parquet(tmp_path)}
    standin.datasets["ours/texts"] = {
        "README.md": b"# Texts\n",
        "data/train-00000-of-00001.parquet": texts_parquet("one", "two", "three"),
        "data/test-00000-of-00001.parquet": texts_parquet("four"),
    }
    standin.datasets["ours/folders"] = {f"train/{name}/{number}.png": png(number) for number, name in enumerate(["oak", "elm"])}
    yield standin
    standin.close()
    close_session()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setenv("HF_TOKEN", "")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    root = Root(tmp_path / "root")
    yield root
    root.close()


def pictures(root: Root, **changes: object) -> HuggingFaceSource:
    return source(root, **{"id": "ours/pictures", "image_column": "image", "label_column": "label", "text_column": "caption"} | changes)


def texts(root: Root, **changes: object) -> HuggingFaceSource:
    return source(root, **{"id": "ours/texts", "text_column": "sentence"} | changes)


def source(root: Root, **config: object) -> HuggingFaceSource:
    return HuggingFaceSource(HuggingFaceDataset.model_validate({"source": "huggingface"} | config), root, QUICK)


def contents(source: HuggingFaceSource) -> list[bytes]:
    items = list(source.items())
    assert source.base is not None
    return [(source.base / str(item.path)).read_bytes() for item in items]


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_images_keep_the_bytes_the_data_set_holds(hub: HubStandin, root: Root, streaming_above: int) -> None:
    """Every image is a file with exactly the bytes of its row, whether the repository was fetched or streamed."""
    assert contents(pictures(root, streaming_above_bytes=streaming_above)) == PICTURES


def test_rows_become_items_with_labels_captions_and_stats(hub: HubStandin, root: Root) -> None:
    """Keys number the rows of a split, class numbers become names (-1 none), captions are texts, sizes and times are the file's."""
    ours = pictures(root)
    items = list(ours.items())
    assert (ours.modality, ours.labelled, list(ours.pairs())) == ("image", True, [])
    assert [item.key for item in items] == [f"train/0000000{number}" for number in range(4)]
    assert [item.label for item in items] == ["cat", "dog", "cat", None]
    assert [item.text for item in items] == ["a cat", "a dog", None, "who knows"]
    stats = [(ours.base / str(item.path)).stat() for item in items] if ours.base else []
    assert [(item.size, item.mtime_ns) for item in items] == [(stat.st_size, stat.st_mtime_ns) for stat in stats]
    assert {item.split for item in items} == {"train"}


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_a_repository_of_image_files_gives_the_files(hub: HubStandin, root: Root, streaming_above: int) -> None:
    """Where rows only name image files, the files' own bytes are kept, and folders are labels."""
    ours = pictures(root, id="ours/folders", text_column=None, streaming_above_bytes=streaming_above)
    kept = {item.label: (ours.base / str(item.path)).read_bytes() for item in ours.items() if ours.base}
    assert kept == {"oak": png(0), "elm": png(1)}


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_several_splits_of_texts_are_listed_one_after_the_other(hub: HubStandin, root: Root, streaming_above: int) -> None:
    """A key column names the rows below their split; texts have no path and no base."""
    ours = texts(root, split=("train", "test"), key_column="number", label_column="topic", streaming_above_bytes=streaming_above)
    assert list(ours.items()) == [
        Item(key="train/0", label="news", text="one", split="train"),
        Item(key="train/1", label="news", text="two", split="train"),
        Item(key="train/2", label="news", text="three", split="train"),
        Item(key="test/0", label="news", text="four", split="test"),
    ]
    assert (ours.modality, ours.base) == ("text", None)


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_a_configuration_chooses_its_files(hub: HubStandin, root: Root, streaming_above: int) -> None:
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
def test_images_in_a_zip_keep_their_bytes(hub: HubStandin, root: Root, streaming_above: int) -> None:
    """Where rows name images inside of the repository's own archive, those are read from it."""
    hub.datasets["ours/packed"] = {"train.zip": zipped({"trees/0.png": png(0), "trees/1.jpg": jpeg(1)})}
    ours = pictures(root, id="ours/packed", text_column=None, label_column=None, streaming_above_bytes=streaming_above)
    assert contents(ours) == [png(0), jpeg(1)]


def test_rows_that_the_library_cannot_make_out_are_told(hub: HubStandin, root: Root) -> None:
    """A damaged table is an InputError with the library's own words, not a traceback."""
    hub.datasets["ours/texts"]["data/train-00000-of-00001.parquet"] = b"no table"
    with pytest.raises(InputError, match="cannot be read"):
        list(texts(root).items())


def test_open_source_opens_a_hub_data_set(hub: HubStandin, root: Root) -> None:
    """The config's kind is all that is needed to open it."""
    config = HuggingFaceDataset(source="huggingface", id="ours/texts", text_column="sentence")
    assert isinstance(open_source(config, root), HuggingFaceSource)


def test_revision_downloads_nothing(hub: HubStandin, root: Root) -> None:
    """One small request tells the commit."""
    texts(root).revision()
    assert len(hub.requests) == 1


def test_revision_changes_with_the_commit_and_with_the_columns(hub: HubStandin, root: Root) -> None:
    """The same commit and columns give the same revision; another commit or another column gives another."""
    first = texts(root).revision()
    assert texts(root).revision() == first
    assert texts(root, label_column="topic").revision() != first
    hub.datasets["ours/texts"]["README.md"] = b"# Texts, mended\n"
    assert texts(root).revision() != first


def test_a_fetched_commit_is_not_fetched_again(hub: HubStandin, root: Root) -> None:
    """Once the inventory is there, items come from disk: no download, and without `revision` no request at all."""
    texts(root).revision()
    before = list(texts(root).items())
    asked = len(hub.requests)
    assert list(texts(root).items()) == before
    assert len(hub.requests) == asked
    downloads = hub.downloads()
    again = texts(root)
    again.revision()
    assert list(again.items()) == before
    assert hub.downloads() == downloads


def test_items_are_those_of_the_announced_commit(hub: HubStandin, root: Root) -> None:
    """A commit that arrives between `revision` and `items` waits for the next night."""
    texts(root).revision()
    listed = list(texts(root).items())
    hub.datasets["ours/texts"]["data/train-00000-of-00001.parquet"] = texts_parquet("other")
    assert list(texts(root).items()) == listed
    assert texts(root).revision()
    assert [item.text for item in texts(root).items()] == ["other"]


def test_the_inventory_says_what_was_fetched(hub: HubStandin, root: Root) -> None:
    """It names the data set, the commit, the columns and the rows of each split."""
    list(texts(root, split=("train", "test")).items())
    (inventory,) = root.path.glob("sources/*/*/inventory.json")
    assert inventory.parent.name == hub.commit("ours/texts")
    text = inventory.read_text()
    assert '"train": 3' in text
    assert '"test": 1' in text
    assert '"text": "sentence"' in text


def test_nothing_is_written_outside_of_the_root(hub: HubStandin, root: Root, tmp_path: Path) -> None:
    """Neither fetching nor streaming leaves files in the library's default cache."""
    list(texts(root).items())
    list(texts(root, streaming_above_bytes=0, label_column="topic").items())
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("fault", [429, 503])
@pytest.mark.parametrize("request_line", ["GET /api/datasets/ours/texts/revision", "GET /cdn/"], ids=["lookup", "file"])
def test_a_busy_hub_is_asked_again(hub: HubStandin, root: Root, fault: int, request_line: str) -> None:
    """429 and 503 delay a fetch and do not end it."""
    hub.fail(request_line, fault)
    texts(root).revision()
    assert [item.text for item in texts(root).items()] == ["one", "two", "three"]


@pytest.mark.parametrize("streaming_above", [10**9, 0], ids=["fetched", "streamed"])
def test_a_cut_download_goes_on(hub: HubStandin, root: Root, streaming_above: int) -> None:
    """A connection that breaks in the middle of a file leaves the images whole."""
    hub.fail("GET /cdn/", "cut")
    assert contents(pictures(root, streaming_above_bytes=streaming_above)) == PICTURES


def test_a_killed_fetch_goes_on_where_it_was(hub: HubStandin, root: Root) -> None:
    """Without an inventory the fetch is taken up: files in the cache are not downloaded, images that are there are not rewritten."""
    ours = pictures(root)
    items = list(ours.items())
    assert ours.base is not None
    first, second = (ours.base / str(item.path) for item in items[:2])
    before, downloads = first.stat(), hub.downloads()
    second.unlink()
    (ours.base / "inventory.json").unlink()
    (ours.base / "rows-train.parquet").unlink()
    assert contents(pictures(root)) == PICTURES
    assert first.stat() == before
    assert hub.downloads() == downloads


@pytest.mark.parametrize("request_line", ["GET /cdn/", "GET /datasets/ours/texts/resolve"], ids=["large", "small"])
def test_a_file_with_another_digest_is_refused(hub: HubStandin, root: Root, request_line: str) -> None:
    """A file whose bytes are not those the hub tells of is never read, and is fetched anew by the next build."""
    hub.fail(request_line, "garbled")
    with pytest.raises(DamagedFile, match="not what the hub says"):
        list(texts(root).items())
    assert not list(root.path.glob("sources/*/*/inventory.json"))
    assert [item.text for item in texts(root).items()] == ["one", "two", "three"]


def test_a_file_with_another_size_is_refused(hub: HubStandin, root: Root) -> None:
    """A file that ends early without a broken connection is not believed."""
    hub.fail("GET /cdn/", *["short"] * 20)
    with pytest.raises(DamagedFile, match="not what the hub says"):
        list(texts(root).items())


def test_an_image_that_changed_on_disk_is_told(hub: HubStandin, root: Root) -> None:
    """An image that is no longer as it was fetched stops the listing with the folder to remove."""
    ours = pictures(root)
    item = next(ours.items())
    assert ours.base is not None
    (ours.base / str(item.path)).write_bytes(b"cut")
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
def test_what_the_data_set_lacks_is_named(hub: HubStandin, root: Root, change: dict[str, object], what: str) -> None:
    """A data set, revision, configuration, split or column that is not there is an InputError that says what is."""
    ours = texts(root, **change)
    with pytest.raises(InputError, match=what):
        list(ours.items()) if ours.revision() else None


def test_a_gated_data_set_says_how_to_get_in(hub: HubStandin, root: Root) -> None:
    """Gated files are an InputError whose next step is to accept the terms and log in."""
    hub.gated.add("ours/texts")
    with pytest.raises(InputError, match="accept its terms"):
        list(texts(root).items())


def test_a_row_may_not_name_a_file_of_this_machine(hub: HubStandin, root: Root, tmp_path: Path) -> None:
    """A path in a row that leads out of the data set is refused, and nothing of it is copied."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(secret)}]}, features=datasets.Features(image=datasets.Image()))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    hub.datasets["ours/sly"] = {"train.parquet": (tmp_path / "rows.parquet").read_bytes()}
    with pytest.raises(InputError, match="outside of its data set"):
        list(pictures(root, id="ours/sly", text_column=None, label_column=None).items())


def test_without_a_network_the_error_is_one_that_is_tried_again(hub: HubStandin, root: Root) -> None:
    """A refused connection is a SourceUnreachable, which the tasks' retry policy counts among the passing faults."""
    hub.close()
    with pytest.raises(SourceUnreachable, match="cannot be reached") as told:
        texts(root).revision()
    assert isinstance(told.value, PASSING)


def test_a_full_commit_needs_no_network_once_fetched(hub: HubStandin, root: Root) -> None:
    """With a commit as the revision both `revision` and `items` work offline, with the same answers."""
    ours = texts(root, revision=hub.commit("ours/texts"))
    revision, items = ours.revision(), list(ours.items())
    hub.close()
    offline = texts(root, revision=hub.commit("ours/texts"))
    assert (offline.revision(), list(offline.items())) == (revision, items)


def test_a_silent_hub_is_not_waited_for_for_ever(hub: HubStandin, root: Root) -> None:
    """Listing a repository, for which the library names no time-out, ends at ours and is tried again."""
    hub.fail("/tree/", "silent")
    config = HuggingFaceDataset(source="huggingface", id="ours/texts", text_column="sentence")
    started = time.monotonic()
    assert len(list(HuggingFaceSource(config, root, Patience(tries=2, wait_s=0.01, timeout_s=0.5)).items())) == 3
    assert time.monotonic() - started < SILENCE_S / 2


def test_a_row_may_not_leave_its_data_set_by_a_chained_path(hub: HubStandin, root: Root) -> None:
    """Only zip archives of the data set itself are opened on the way to a file."""
    ours = texts(root)
    list(ours.items())
    with pytest.raises(InputError, match="outside of its data set"):
        ours._hub.read(f"file:///etc/hostname::{ours._hub._place}/README.md")
    assert ours._hub.read(f"{ours._hub._place}/README.md") == b"# Texts\n"
