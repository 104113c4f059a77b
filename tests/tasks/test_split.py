"""The split is a function of content and seed, and of nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexmill.configs.models import SplitConfig
from indexmill.storage.root import Root
from indexmill.tasks.sources import Item
from indexmill.tasks.split import choose_side
from indexmill.tasks.validation.text_normalization import normalize_for_grouping, normalize_text
from tests.stage_inputs import ListSource, make_image_source, read_rows, run_split, write_noise

groups = st.lists(st.text(min_size=1), min_size=1, max_size=50, unique=True)


@given(groups, st.lists(st.text(), max_size=50), st.randoms())
def test_adding_removing_and_reordering_items_never_moves_another(before: list[str], others: list[str], random: object) -> None:
    """Tonight's queries were queries last year."""
    config = SplitConfig()
    sides = {group: choose_side(group, None, config) for group in before}
    after = [*others, *before[: len(before) // 2]]
    random.shuffle(after)  # type: ignore[attr-defined]
    now = {group: choose_side(group, None, config) for group in after}
    assert all(now[group] == side for group, side in sides.items() if group in now)


def test_the_query_fraction_holds_on_average() -> None:
    """Of 10,000 groups 20 % are queries, within three standard errors (1.2 points)."""
    share = sum(choose_side(str(number), None, SplitConfig()) == "query" for number in range(10_000)) / 10_000
    assert abs(share - 0.2) < 0.012


@given(st.text())
def test_case_punctuation_and_spacing_do_not_part_texts(text: str) -> None:
    """A text and its shouted, quoted twin stand on one side. (Letters whose upper case folds to others are left aside.)"""
    if text.upper().casefold() == text.casefold():
        assert normalize_for_grouping(f' "{text.upper()}" !') == normalize_for_grouping(text)


def test_normalised_text_is_nfc_with_single_spaces() -> None:
    """What is digested and encoded: case and punctuation stay, spelling of accents and spacing do not."""
    assert normalize_text("  Cafe\u0301\n\t  au\u00a0lait! ") == "Caf\u00e9 au lait!"
    assert normalize_for_grouping("Cafe\u0301,  AU lait!") == "caf\u00e9 au lait"


TEXTS = [Item(f"k{number}", label=f"l{number % 4}", text=f"Text {number % 50}" + "!" * (number // 50)) for number in range(60)]


def sides(root: Root, source: ListSource, **limits: object) -> dict[str, str]:
    """Key -> side, once the source went through ingest, validate and split."""
    return {row["key"]: row["side"] for row in read_rows(root, run_split(root, source, **limits).table)}


@given(st.lists(st.sampled_from(TEXTS), min_size=1, unique=True))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_moves_when_others_come_go_or_change_places(root: Root, some: list[Item]) -> None:
    """Through ingest, validate and split, any part of a data set in any order is run_split as the whole is."""
    whole, part = sides(root, ListSource(TEXTS)), sides(root, ListSource(some))
    assert set(whole.values()) == {"query", "database"}
    assert part == {item.key: whole[item.key] for item in some}


def test_no_picture_moves_when_others_come_go_or_change_places(root: Root, tmp_path: Path) -> None:
    """The same on images, whose group is their perceptual hash."""
    for number in range(24):
        write_noise(tmp_path / "base" / "label" / f"{number}.bmp", number)
    source = make_image_source(tmp_path / "base")
    whole = sides(root, source)
    assert set(whole.values()) == {"query", "database"}
    for part in (source.item_list[::2], source.item_list[::-1], source.item_list[5:9]):
        assert sides(root, ListSource(part, image_root=source.image_root)) == {item.key: whole[item.key] for item in part}


def test_a_given_split_is_followed_by_the_names_of_its_parts(root: Root) -> None:
    """What query_splits names is the query side; all else, and what stands in no part, is the database."""
    listing = [Item(str(name), "l", f"text of {name}", split=name) for name in ("train", "test", "val", "odd", None)]
    database = {"train": "database", "odd": "database", "None": "database"}
    assert sides(root, ListSource(listing), mode="given") == database | {"test": "query", "val": "query"}
    chosen = sides(root, ListSource(listing), mode="given", query_splits=("odd",))
    assert [key for key, side in chosen.items() if side == "query"] == ["odd"]


def test_without_a_split_all_is_database(root: Root) -> None:
    """Mode none."""
    record = run_split(root, ListSource(TEXTS), mode="none")
    assert (record.database, record.query, record.leaks) == (60, 0, 0)


def test_what_each_label_got_is_recorded(root: Root) -> None:
    """by_label is a count by hand, labels of fewer than five items and items without a label among them."""
    sizes = {None: 7, "large": 100, "four": 4, "one": 1}
    listing = [Item(f"{label}{number}", label, f"{label} {number}") for label, size in sizes.items() for number in range(size)]
    record = run_split(root, ListSource(listing, labeled=False))
    counted = Counter((row["label"], row["side"]) for row in read_rows(root, record.table))
    found = read_rows(root, record.by_label)
    assert [row["label"] for row in found] == [None, "four", "large", "one"]
    for row in found:
        database, query = (counted[row["label"], side] for side in ("database", "query"))
        assert (row["items"], row["database"], row["query"]) == (sizes[row["label"]], database, query)
        assert row["query_fraction"] == query / sizes[row["label"]]
    assert (record.database + record.query, record.labels) == (112, 3)


def test_items_of_one_group_under_two_labels_are_counted_as_conflicts(root: Root) -> None:
    """Groups, not items; a group of one label is none."""
    texts = [("a", "x", "Same."), ("b", "y", "same"), ("c", "z", "SAME!"), ("d", "x", "twice"), ("e", "x", "Twice"), ("f", "x", "other")]
    record = run_split(root, ListSource([Item(*item) for item in texts]))
    assert (record.conflicts, record.groups) == (1, 3)
    chosen = {row["key"]: row["side"] for row in read_rows(root, record.table)}
    assert len({chosen[key] for key in "abc"}) == len({chosen[key] for key in "de"}) == 1
