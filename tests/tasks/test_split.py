"""The split depends on content and seed alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.models import SplitConfig
from indexmill.storage.root import Root
from indexmill.tasks.sources import Item
from indexmill.tasks.split import choose_side
from indexmill.tasks.validation.text_normalization import normalize_for_grouping, normalize_text
from tests.examples import count_examples
from tests.stage_inputs import ListSource, make_image_source, read_rows, run_split, write_noise

groups = st.lists(st.text(min_size=1), min_size=1, max_size=50, unique=True)


@given(groups, st.lists(st.text(), max_size=50), st.randoms())
def test_other_items_never_move_an_item(before: list[str], others: list[str], random: object) -> None:
    """Items can be added, removed and reordered."""
    config = SplitConfig()
    sides_before = {group: choose_side(group, None, config) for group in before}
    after = [*others, *before[: len(before) // 2]]
    random.shuffle(after)  # type: ignore[attr-defined]
    sides_after = {group: choose_side(group, None, config) for group in after}
    assert all(sides_after[group] == side for group, side in sides_before.items() if group in sides_after)


def test_the_query_fraction_holds_on_average() -> None:
    """Of 10,000 groups 20 % are queries, within three standard errors (1.2 points)."""
    fraction = sum(choose_side(str(number), None, SplitConfig()) == "query" for number in range(10_000)) / 10_000
    assert abs(fraction - 0.2) < 0.012


@given(st.text())
def test_texts_that_differ_in_case_punctuation_and_spacing_form_one_group(text: str) -> None:
    """A text and its quoted upper case are one group, except for letters whose upper case folds to other letters."""
    if text.upper().casefold() == text.casefold():
        assert normalize_for_grouping(f' "{text.upper()}" !') == normalize_for_grouping(text)


def test_normalized_text_is_nfc_with_single_spaces() -> None:
    """Case and punctuation stay; the encoding of accents and the spacing do not."""
    assert normalize_text("  Cafe\u0301\n\t  au\u00a0lait! ") == "Caf\u00e9 au lait!"
    assert normalize_for_grouping("Cafe\u0301,  AU lait!") == "caf\u00e9 au lait"


def test_texts_that_say_different_things_are_groups_of_their_own() -> None:
    """Vowel signs, accents, numbers, symbols, operators, names of languages, emoji and emoticons count."""
    families = [
        "दिन दान दीन दून द न",
        "C C++ C# C-- F# .NET NET",
        "5 -5 +5 5% $5 €5 1.5 1,5 15 10² 102 1½ 12:30 1230",
        "a+b a-b a<b a>b a->b a*b a/b a=b a==b a!=b a_b ab i++ i--",
        "👍 👎 👍🏽 👨‍👩‍👧 👩‍👧 :) :( <3",
        "שָׁלוֹם שלום عَلِمَ علم тест тёст กา กี กู か が",
        "int[] int{} __init__ init R&D RD A* A 20°C 20°F #a @a",
    ]
    texts = [text for family in families for text in family.split()]
    assert len({normalize_for_grouping(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("“Quoted”, (really)!", "quoted really"),
        ("wait — what?", "Wait: what"),
        ("\uff26\uff35\uff2c\uff2c width", "full width"),
        ("❤️", "❤"),
        ("\u22125 °C", "-5 °c"),
        ("x\u200by", "xy"),
        ("你好。", "你好"),
        ("क्या हाल है?", "क्या हाल है।"),
        ("كيف الحال؟", "كيف الحال"),
        ("Straße", "STRASSE"),
        ("- item 5.", "item 5"),
        ("x²", "x^2"),
    ],
)
def test_texts_that_say_the_same_are_one_group(text: str, same: str) -> None:
    assert normalize_for_grouping(text) == normalize_for_grouping(same)


TEXTS = [Item(f"k{number}", label=f"l{number % 4}", text=f"Text {number % 50}" + "!" * (number // 50)) for number in range(60)]


def assign_sides(root: Root, source: ListSource, **limits: object) -> dict[str, str]:
    """Run ingest, validate and split. Returns key -> side."""
    return {row["key"]: row["side"] for row in read_rows(root, run_split(root, source, **limits).table)}


def test_no_text_moves_when_others_are_added_removed_or_reordered(root: Root) -> None:
    """Through ingest, validate and split, any part of a data set in any order is split as the whole."""
    whole = assign_sides(root, ListSource(TEXTS))
    assert set(whole.values()) == {"query", "database"}

    @given(st.lists(st.sampled_from(TEXTS), min_size=1, unique=True))
    @settings(max_examples=count_examples(10), deadline=None)
    def check_part(part: list[Item]) -> None:
        assert assign_sides(root, ListSource(part)) == {item.key: whole[item.key] for item in part}

    check_part()


def test_no_image_moves_when_others_are_removed_or_reordered(root: Root, tmp_path: Path) -> None:
    """The same with images, whose group is their perceptual hash."""
    for number in range(24):
        write_noise(tmp_path / "base" / "label" / f"{number}.bmp", number)
    source = make_image_source(tmp_path / "base")
    whole = assign_sides(root, source)
    assert set(whole.values()) == {"query", "database"}
    for part in (source.item_list[::2], source.item_list[::-1], source.item_list[5:9]):
        assert assign_sides(root, ListSource(part, image_root=source.image_root)) == {item.key: whole[item.key] for item in part}


def test_a_given_split_is_used_by_name(root: Root) -> None:
    """The splits in query_splits are the query side; all others, and items without a split, are the database."""
    listing = [Item(str(name), "l", f"text of {name}", split=name) for name in ("train", "test", "val", "odd", None)]
    database = {"train": "database", "odd": "database", "None": "database"}
    assert assign_sides(root, ListSource(listing), mode="given") == database | {"test": "query", "val": "query"}
    chosen = assign_sides(root, ListSource(listing), mode="given", query_splits=("odd",))
    assert [key for key, side in chosen.items() if side == "query"] == ["odd"]


def test_without_a_split_all_items_are_database(root: Root) -> None:
    """With mode none."""
    record = run_split(root, ListSource(TEXTS), mode="none")
    assert (record.database, record.query, record.leaks) == (60, 0, 0)


def test_by_label_counts_every_label(root: Root) -> None:
    """The table equals a count by hand, including small labels and items without a label."""
    sizes = {None: 7, "large": 100, "four": 4, "one": 1}
    listing = [Item(f"{label}{number}", label, f"{label} {number}") for label, size in sizes.items() for number in range(size)]
    record = run_split(root, ListSource(listing, labeled=False))
    counted = Counter((row["label"], row["side"]) for row in read_rows(root, record.table))
    by_label = read_rows(root, record.by_label)
    assert [row["label"] for row in by_label] == [None, "four", "large", "one"]
    for row in by_label:
        database, query = (counted[row["label"], side] for side in ("database", "query"))
        assert (row["items"], row["database"], row["query"]) == (sizes[row["label"]], database, query)
        assert row["query_fraction"] == query / sizes[row["label"]]
    assert (record.database + record.query, record.labels) == (112, 3)


def test_groups_with_two_labels_are_counted_as_conflicts(root: Root) -> None:
    """Groups are counted, not items. A group with one label is no conflict."""
    texts = [("a", "x", "Same."), ("b", "y", "same"), ("c", "z", "SAME!"), ("d", "x", "twice"), ("e", "x", "Twice"), ("f", "x", "other")]
    record = run_split(root, ListSource([Item(*item) for item in texts]))
    assert (record.conflicts, record.groups) == (1, 3)
    sides = {row["key"]: row["side"] for row in read_rows(root, record.table)}
    assert len({sides[key] for key in "abc"}) == len({sides[key] for key in "de"}) == 1
