"""Tar shards in WebDataset's layout: what an item is, and what is read again."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from indexmill.storage.contents import join_location, read_content
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import Item
from indexmill.tasks.sources.json_lines import describe_missing_field
from indexmill.tasks.sources.webdataset import WebDatasetSource
from tests.sources.tar_files import make_jpeg, make_member, make_sample, open_shards, write_shard
from tests.stage_inputs import OLD_MTIME_NS, set_mtime


def read_item(source: WebDatasetSource, item: Item) -> bytes:
    assert item.path is not None
    return read_content(join_location(source.image_root, item.path))


def test_samples_as_img2dataset_writes_them(tmp_path: Path, root: Root) -> None:
    """Keys are shard and name, texts come from .txt or .json, and each path gives the member's own bytes."""
    fields = {"caption": "from json", "label": 3, "url": "u0", "exif": "{}"}
    write_shard(tmp_path / "s/00000.tar", make_sample("000000000", 0, "a bird", fields), make_sample("000000001", 1))
    write_shard(tmp_path / "s/00001.tar", make_sample("000010000", 2, "häuser"))
    source = open_shards(root, tmp_path / "s/{00000..00001}.tar", captions="text")
    items = list(source.items())
    assert source.image_root == tmp_path / "s"
    assert [(item.key, item.text, item.label) for item in items] == [
        ("00000.tar/000000000", "a bird", None),
        ("00000.tar/000000001", None, None),
        ("00001.tar/000010000", "häuser", None),
    ]
    assert [read_item(source, item) for item in items] == [make_jpeg(seed) for seed in range(3)]
    assert [item.content_digest for item in items] == [content_digest(make_jpeg(seed)) for seed in range(3)]
    shard = tmp_path / "s/00000.tar"
    by_json = open_shards(root, shard, captions="json", labels="json", key_column="url")
    first, second = by_json.items()
    assert (first.key, first.text, first.label) == ("u0", "from json", "3")
    assert second.fault == "the sample has no .json with a field 'url', which key_column names"
    third, _ = open_shards(root, shard, labels="json", label_column="categry").items()
    assert third.fault is not None
    assert third.fault.startswith("the .json: no field 'categry'; its fields are ")
    assert "label" in third.fault.partition("its fields are ")[2].split(", which label_column")[0].split(", ")


def test_the_fields_of_a_sample_that_lacks_one_are_bounded() -> None:
    """Every such sample has this message."""
    text = json.dumps({f"field{number}": number for number in range(1000)})
    assert (
        describe_missing_field(text, "x") == "no field 'x'; its fields are " + ", ".join(f"field{n}" for n in range(10)) + " and 990 more"
    )
    assert describe_missing_field('{"x": null}', "x") == "the field 'x' is null"


def test_labels_from_folders_and_cls(tmp_path: Path, root: Root) -> None:
    """Folders in the shard are part of the key; `cls` is ImageNet's class beside the image."""
    shard = write_shard(tmp_path / "a.tar", make_member("./cat/1.JPEG", make_jpeg(1)), make_member("cat/1.cls", b"281\n"))
    assert [(item.key, item.label) for item in open_shards(root, shard, labels="folder").items()] == [("a.tar/cat/1", "cat")]
    assert [item.label for item in open_shards(root, shard, labels="cls").items()] == ["281"]


def test_members_of_a_sample_need_not_be_neighbors(tmp_path: Path, root: Root) -> None:
    """WebDataset wants them so, but `tar cf` of a folder writes them in any order."""
    members = [
        make_member("b.txt", b"bee"),
        make_member("a.jpg", make_jpeg(1)),
        make_member("b.jpg", make_jpeg(2)),
        make_member("a.txt", b"ay"),
    ]
    items = open_shards(root, write_shard(tmp_path / "a.tar", *members), captions="text").items()
    assert [(item.key, item.text) for item in items] == [("a.tar/a", "ay"), ("a.tar/b", "bee")]


def test_what_is_no_image_is_counted(tmp_path: Path, root: Root) -> None:
    """An image without a suffix is found by its first bytes; of several in a sample the one with the shortest name counts."""
    shard = write_shard(
        tmp_path / "a.tar",
        make_member("1", make_jpeg(1)),
        make_member("2.mask.png", make_jpeg(3)),
        make_member("2.png", make_jpeg(2)),
        make_member("2.npy", b"\x93NUMPY"),
        make_member(".DS_Store", b"x"),
        make_member("README", b"text"),
    )
    source = open_shards(root, shard)
    assert [read_item(source, item) for item in source.items()] == [make_jpeg(1), make_jpeg(2)]
    assert source.skipped == {"further image of a sample": 1, ".npy": 1, "hidden": 1, "without a suffix": 1}
    assert [item.key for item in source.items()] == ["a.tar/1", "a.tar/2"]  # from the listing this time
    assert source.skipped == {"further image of a sample": 1, ".npy": 1, "hidden": 1, "without a suffix": 1}


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format(tmp_path: Path, root: Root, tar_format: int) -> None:
    """The names agree with those that Python's tarfile reads."""
    names = ["a" * 90 + "/" + "b" * 90 + ".jpg"]
    if tar_format != tarfile.USTAR_FORMAT:
        names += ["ü" * 120 + ".jpg", "/".join(["d" * 60] * 10) + "/c.jpg"]
    members = [make_member(name, make_jpeg(seed), tar_format=tar_format) for seed, name in enumerate(names)]
    shard = write_shard(tmp_path / "a.tar", *members)
    with tarfile.open(shard) as archive:
        expected = {f"a.tar/{info.name.removesuffix('.jpg')}": info.offset_data for info in archive}
    items = list(open_shards(root, shard).items())
    assert {item.key: int((item.path or "").split("//")[1].split("+")[0]) for item in items} == expected


def test_an_unchanged_shard_is_not_read(tmp_path: Path, root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of one shard only that one is read, and its old listing is removed."""
    shards = [write_shard(tmp_path / f"{number}.tar", make_sample("x", number)) for number in range(3)]
    first = open_shards(root, tmp_path / "*.tar")
    keys, revision = [item.key for item in first.items()], first.compute_revision()
    opened: list[str] = []
    plain_open = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *args, **options: opened.append(path.name) or plain_open(path, *args, **options))
    again = open_shards(root, tmp_path / "*.tar")
    assert ([item.key for item in again.items()], again.compute_revision()) == (keys, revision)
    assert not [name for name in opened if name.endswith(".tar")]
    set_mtime(write_shard(shards[1], make_sample("x", 7)), OLD_MTIME_NS + 1)
    opened.clear()
    changed = open_shards(root, tmp_path / "*.tar")
    assert changed.compute_revision() != revision
    assert [item.content_digest for item in changed.items()][1] == content_digest(make_jpeg(7))
    assert [name for name in opened if name.endswith(".tar")] == ["1.tar"]
    assert len(list((root.path / "sources").rglob("*.parquet"))) == 3
    opened.clear()
    list(open_shards(root, tmp_path / "*.tar", relist=True).items())
    assert [name for name in opened if name.endswith(".tar")] == ["0.tar", "1.tar", "2.tar"]


def test_a_shard_that_was_just_written_is_listed_again(tmp_path: Path, root: Root) -> None:
    """It may change within one tick of the clock."""
    shard = write_shard(tmp_path / "a.tar", make_sample("x", 1))
    os.utime(shard)
    status = shard.stat()
    list(open_shards(root, shard).items())
    write_shard(shard, make_sample("x", 2))
    os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [item.content_digest for item in open_shards(root, shard).items()] == [content_digest(make_jpeg(2))]


@pytest.mark.parametrize(
    ("pattern", "got"), [("{0..3}.tar", "2 of 4 are missing"), ("*.tgz", "no such file"), ("{0..9999999}.tar", "{0..9999999}")]
)
def test_missing_shards_are_errors(tmp_path: Path, root: Root, pattern: str, got: str) -> None:
    """A shard that is named must be there: without it thousands of items would be gone in silence."""
    for number in range(2):
        write_shard(tmp_path / f"{number}.tar", make_sample("x", number))
    with pytest.raises(InputError, match="shard") as error:
        open_shards(root, f"{tmp_path}/{pattern}").compute_revision()
    assert got in str(error.value)
