"""The items table is the same for the same items, and unchanged files are not read again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.datasets import FolderDatasetConfig, TableDatasetConfig
from indexmill.storage.digests import content_digest
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.ingest import ingest
from indexmill.tasks.sources import Item
from indexmill.tasks.sources.base import ScoredPair
from indexmill.tasks.sources.revisions import read_source_revision
from tests.examples import count_examples
from tests.stage_inputs import OLD_MTIME_NS, ListSource, make_image_source, read_rows, run_ingest, set_mtime, write_noise

TEXTS = [Item(f"k{number}", label=f"l{number % 3}", text=f"text {number}") for number in range(40)]


@contextmanager
def open_fresh_root() -> Iterator[Root]:
    """Open a root for one example."""
    with TemporaryDirectory() as folder:
        root = Root(folder)
        yield root
        root.close()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the images that are read."""
    names: list[str] = []
    original = Path.read_bytes

    def record_and_read(path: Path) -> bytes:
        if path.suffix == ".bmp":
            names.append(path.name)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", record_and_read)
    return names


def list_keys(root: Root, **limits: object) -> set[str]:
    """Return the keys of TEXTS that ingest selects."""
    return {row["key"] for row in read_rows(root, run_ingest(root, ListSource(TEXTS), **limits).table)}


def test_the_order_of_listing_does_not_matter(root: Root) -> None:
    """A permuted listing gives the same digest and the same table, row by row."""
    first = run_ingest(root, ListSource(TEXTS[:12]))

    @given(st.permutations(TEXTS[:12]))
    @settings(max_examples=count_examples(25), deadline=None)
    def check(listing: list[Item]) -> None:
        with open_fresh_root() as other_root:
            second = run_ingest(other_root, ListSource(listing))
            assert first.digest == second.digest
            assert first.table.sha256 == second.table.sha256
            assert read_rows(root, first.table) == read_rows(other_root, second.table)

    check()


def test_the_digest_changes_with_every_relevant_difference(root: Root, image_root: Path) -> None:
    """Another key, label, text or split, one more item, another score, no labels: each gives another digest."""
    item = Item("k", label="l", text="t", split="train")
    pair = ScoredPair("k", "k", 1.0, "f")
    sources = [
        ListSource([item]),
        ListSource([Item("K", label="l", text="t", split="train")]),
        ListSource([Item("k", label="L", text="t", split="train")]),
        ListSource([Item("k", label=None, text="t", split="train")]),
        ListSource([Item("k", label="l", text="T", split="train")]),
        ListSource([Item("k", label="l", text="t", split="test")]),
        ListSource([item, Item("k2", label="l", text="t")]),
        ListSource([item], labeled=False),
        ListSource([item], pair_list=[pair]),
        ListSource([item], pair_list=[ScoredPair("k", "k", 2.0, "f")]),
    ]
    assert len({run_ingest(root, source).digest for source in sources}) == len(sources)


def test_every_batch_is_complete(root: Root) -> None:
    """More items than fit into a batch are all written, sorted by id, each with the digest of its text."""
    listing = [Item(f"k{number}", label="l", text=f"text {number}") for number in range(20_000)]
    table = read_rows(root, run_ingest(root, ListSource(listing)).table)
    assert [row["item_id"] for row in table] == sorted(row["item_id"] for row in table)
    assert {(row["key"], row["text"]) for row in table} == {(item.key, item.text) for item in listing}
    assert all(row["content_digest"] == content_digest(row["text"].encode()) for row in table)


def test_a_larger_limit_extends_the_sample(root: Root) -> None:
    """A larger limit keeps the smaller one's items, another seed draws others, and neither draws the first rows."""
    draws = [list_keys(root, limit=limit) for limit in (1, 5, 10, 25)]
    assert [len(draw) for draw in draws] == [1, 5, 10, 25]
    assert draws[0] < draws[1] < draws[2] < draws[3]
    assert draws[2] != {item.key for item in TEXTS[:10]}
    assert list_keys(root, limit=10, sample_seed=1) not in (draws[2], {item.key for item in TEXTS[:10]})
    assert list_keys(root, limit=1000) == {item.key for item in TEXTS}


def test_a_sample_covers_the_listing_evenly(root: Root) -> None:
    """Of 4,000 items in the order of 4 labels, a sample of 1,000 takes 250 of each, within four standard errors."""
    listing = [Item(f"k{number:04d}", label=str(number // 1000), text=str(number)) for number in range(4000)]
    labels = [row["label"] for row in read_rows(root, run_ingest(root, ListSource(listing), limit=1000).table)]
    assert all(abs(labels.count(label) - 250) < 4 * (1000 * 0.25 * 0.75 * 0.75) ** 0.5 for label in "0123")


def test_a_sampled_item_stays_when_others_are_added(root: Root) -> None:
    """An item leaves the sample only for a new one with a lower draw, so only new items join the sample."""
    before = {row["key"] for row in read_rows(root, run_ingest(root, ListSource(TEXTS[:20]), limit=8).table)}
    assert list_keys(root, limit=8) - before <= {item.key for item in TEXTS[20:]}


def test_excluded_labels_are_not_listed(root: Root) -> None:
    """No item of an excluded label is listed; items without a label are."""
    unlabeled = Item("none", text="no label")
    table = read_rows(root, run_ingest(root, ListSource([*TEXTS, unlabeled]), exclude_labels=("l0", "l2")).table)
    assert {row["label"] for row in table} == {"l1", None}
    assert len(table) == sum(item.label == "l1" for item in TEXTS) + 1


def test_a_source_without_items_is_refused_with_the_excluded_labels(root: Root) -> None:
    """Nothing is left once every label is excluded."""
    with pytest.raises(InputError, match="0 items after excluding l0, l1, l2"):
        run_ingest(root, ListSource(TEXTS), exclude_labels=("l0", "l1", "l2"))


def test_a_key_that_is_listed_twice_is_refused(root: Root) -> None:
    """Even if both items have the same text. The error names the key."""
    with pytest.raises(InputError, match="two items have the same key") as raised:
        run_ingest(root, ListSource([*TEXTS, TEXTS[7]]))
    assert raised.value.where == "key k7"


def test_a_repeated_value_of_the_key_column_names_the_column(root: Root, tmp_path: Path) -> None:
    """The column is what the user can change."""
    (tmp_path / "t.csv").write_text("color,text\nred,a\nblue,b\nred,c\n")
    config = TableDatasetConfig(source="csv", path=str(tmp_path / "t.csv"), text_column="text", key_column="color")
    with pytest.raises(InputError) as raised:
        ingest.fn(root, "some", config, "r")
    assert raised.value.where == "dataset.key_column = color, key red"
    assert "dataset.key_column" in raised.value.next_step


def test_two_keys_with_one_id_are_refused(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search result must lead back to one item. The error names both keys."""
    monkeypatch.setattr("indexmill.tasks.ingest.item_id", lambda key: 5 if key in ("k3", "k9") else int(key[1:]) + 100)
    with pytest.raises(InputError, match="two keys have the same item id") as raised:
        run_ingest(root, ListSource(TEXTS))
    assert raised.value.where == "keys k3 and k9"


def test_an_item_without_a_text_is_listed(root: Root) -> None:
    """It has no digest; validation rejects it."""
    (row,) = read_rows(root, run_ingest(root, ListSource([Item("k", label="l")])).table)
    assert (row["text"], row["content_digest"]) == (None, None)


def test_unchanged_files_are_not_read_again(root: Root, image_root: Path, reads: list[str]) -> None:
    """The second build reads nothing and lists the same; of a new image, only that is read."""
    first = run_ingest(root, make_image_source(image_root))
    assert sorted(reads) == [f"{number}.bmp" for number in range(6)]
    reads.clear()
    assert run_ingest(root, make_image_source(image_root)).digest == first.digest
    assert reads == []
    write_noise(image_root / "l0" / "new.bmp", 6)
    assert run_ingest(root, make_image_source(image_root)).items == 7
    assert reads == ["new.bmp"]


@pytest.mark.parametrize("change", ["path", "size", "mtime"])
def test_a_file_is_recognized_by_path_size_and_time_together(change: str, root: Root, image_root: Path, reads: list[str]) -> None:
    """Whichever of the three changes, the file is read again, and no other."""
    run_ingest(root, make_image_source(image_root))
    reads.clear()
    path = image_root / "l0" / "0.bmp"
    match change:
        case "path":
            path = path.rename(path.with_name("renamed.bmp"))
        case "size":
            path.write_bytes(path.read_bytes() + b"\0")
            set_mtime(path)
        case "mtime":
            set_mtime(path, OLD_MTIME_NS + 1)
    reads.clear()
    run_ingest(root, make_image_source(image_root))
    assert reads == [path.name]


def test_only_rehash_detects_a_change_of_content_alone(root: Root, image_root: Path, reads: list[str]) -> None:
    """New content with the old size and time keeps the old digest until every file is read again."""
    before = run_ingest(root, make_image_source(image_root))
    write_noise(image_root / "l0" / "0.bmp", seed=99)
    assert run_ingest(root, make_image_source(image_root)).digest == before.digest
    reads.clear()
    after = run_ingest(root, make_image_source(image_root), rehash=True)
    assert len(reads) == 6
    assert after.digest != before.digest
    changed = {row["key"]: row["content_digest"] for row in read_rows(root, after.table)}
    assert changed["l0/0.bmp"] == content_digest((image_root / "l0" / "0.bmp").read_bytes())
    assert run_ingest(root, make_image_source(image_root)).digest == after.digest


def test_a_file_younger_than_two_seconds_is_read_again(root: Root, image_root: Path, reads: list[str]) -> None:
    """It may change again within the same tick of the clock. Later it is recognized."""
    path = image_root / "l0" / "0.bmp"
    set_mtime(path, time.time_ns())
    first = run_ingest(root, make_image_source(image_root))
    mtime_ns = path.stat().st_mtime_ns
    write_noise(path, seed=99)
    set_mtime(path, mtime_ns)
    reads.clear()
    assert run_ingest(root, make_image_source(image_root)).digest != first.digest
    assert reads == ["0.bmp"]
    set_mtime(path, time.time_ns() - 3_000_000_000)
    run_ingest(root, make_image_source(image_root))
    reads.clear()
    run_ingest(root, make_image_source(image_root))
    assert reads == []


def test_digests_of_one_folder_are_not_used_for_another(root: Root, image_root: Path, tmp_path: Path) -> None:
    """Two folders with the same names, sizes and times but other contents keep their own digests."""
    for number in range(6):
        write_noise(tmp_path / "other" / f"l{number % 2}" / f"{number}.bmp", 100 + number)
    run_ingest(root, make_image_source(image_root))
    digests = {row["key"]: row["content_digest"] for row in read_rows(root, run_ingest(root, make_image_source(tmp_path / "other")).table)}
    assert digests == {key: content_digest((tmp_path / "other" / key).read_bytes()) for key in digests}


def test_touching_a_file_changes_the_revision_but_not_the_data_set(root: Root, image_root: Path) -> None:
    """The modification time is not part of an item's identity."""
    config = FolderDatasetConfig(source="folder", path=str(image_root))
    before, revision = run_ingest(root, make_image_source(image_root)), read_source_revision(config, root)
    assert read_source_revision(config, root) == revision
    set_mtime(image_root / "l0" / "0.bmp", OLD_MTIME_NS + 1)
    assert read_source_revision(config, root) != revision
    assert run_ingest(root, make_image_source(image_root)).digest == before.digest


def test_a_missing_image_has_no_digest_and_is_tried_again(root: Root, image_root: Path) -> None:
    """Validation rejects it. When it is back with the same size and time, it is read."""
    source, path = make_image_source(image_root), image_root / "l0" / "0.bmp"
    path.rename(image_root / "away")
    digests = {row["key"]: row["content_digest"] for row in read_rows(root, run_ingest(root, source).table)}
    assert [key for key, digest in digests.items() if digest is None] == ["l0/0.bmp"]
    (image_root / "away").rename(path)
    assert None not in [row["content_digest"] for row in read_rows(root, run_ingest(root, source).table)]
