"""The split is a function of content and seed, and of nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from configs.models import SplitConfig
from tasks.checks.items import normalised, text_group
from tasks.split import side_of

groups = st.lists(st.text(min_size=1), min_size=1, max_size=50, unique=True)


@given(groups, st.lists(st.text(), max_size=50), st.randoms())
def test_adding_removing_and_reordering_items_never_moves_another(before: list[str], others: list[str], random: object) -> None:
    """Tonight's queries were queries last year."""
    config = SplitConfig()
    sides = {group: side_of(group, None, config) for group in before}
    after = [*others, *before[: len(before) // 2]]
    random.shuffle(after)  # type: ignore[attr-defined]
    now = {group: side_of(group, None, config) for group in after}
    assert all(now[group] == side for group, side in sides.items() if group in now)


def test_the_query_fraction_holds_on_average() -> None:
    """Of 10,000 groups 20 % are queries, within three standard errors (1.2 points)."""
    share = sum(side_of(str(number), None, SplitConfig()) == "query" for number in range(10_000)) / 10_000
    assert abs(share - 0.2) < 0.012


@given(st.text())
def test_case_punctuation_and_spacing_do_not_part_texts(text: str) -> None:
    """A text and its shouted, quoted twin stand on one side. (Letters whose upper case folds to others are left aside.)"""
    if text.upper().casefold() == text.casefold():
        assert text_group(f' "{text.upper()}" !') == text_group(text)


def test_normalised_text_is_nfc_with_single_spaces() -> None:
    """What is digested and encoded: case and punctuation stay, spelling of accents and spacing do not."""
    assert normalised("  Cafe\u0301\n\t  au\u00a0lait! ") == "Caf\u00e9 au lait!"
    assert text_group("Cafe\u0301,  AU lait!") == "caf\u00e9 au lait"
