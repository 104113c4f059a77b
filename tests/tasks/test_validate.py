"""Every row is used or set aside with its reason, and no image is opened twice for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexmill.configs.models import ValidateConfig
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.tasks.sources import Item
from indexmill.tasks.validate import validate
from indexmill.tasks.validation.image_reader import UnreadableImage
from tests.stage_inputs import (
    OLD_MTIME_NS,
    ListSource,
    list_image_items,
    make_image_source,
    read_rows,
    run_ingest,
    run_validate,
    set_mtime,
    write_noise,
)

GOOD = Item("good", label="l", text="a text")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The day of September 2026 on which rejects are written; to be changed at will."""
    day = [1]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 9, day[0], tzinfo=UTC)

    monkeypatch.setattr("indexmill.tasks.validation.rejects.datetime", Clock)
    yield day


def reasons(root: Root, source: ListSource, **limits: object) -> dict[str, str]:
    """Key -> reason of every reject."""
    return {row["key"]: row["reason"] for row in read_rows(root, run_validate(root, source, **limits).rejects)}


def opened(root: Root) -> int:
    """How many results of opening an image are kept."""
    return sum(pq.read_metadata(part).num_rows for part in root.path.glob("image_checks/*/part-*.parquet"))


TEXTS = {
    "missing_label": Item("k", label=None, text="t"),
    "empty_label": Item("k", label="", text="t"),
    "missing_text": Item("k", label="l"),
    "empty_text": Item("k", label="l", text=" \n"),
    "text_too_long": Item("k", label="l", text="é" * 11),
    "empty_key": Item("", label="l", text="t"),
}


@pytest.mark.parametrize("reason", TEXTS)
def test_a_text_that_breaks_a_rule_is_set_aside_by_its_name(reason: str, root: Root) -> None:
    """The reason is the rule's code, the message is not empty, and the sound item beside it passes."""
    record = run_validate(root, ListSource([GOOD, TEXTS[reason]]), max_text_length=10)
    (reject,) = read_rows(root, record.rejects)
    assert (reject["key"], reject["reason"]) == (TEXTS[reason].key, reason) and reject["message"]
    assert [row["key"] for row in read_rows(root, record.table)] == ["good"]
    assert (record.items, record.rejected, record.rejected_by_reason) == (1, 1, {reason: 1})


def test_a_text_is_as_long_as_its_characters(root: Root) -> None:
    """Ten accented letters are ten, however many bytes they take."""
    assert reasons(root, ListSource([GOOD, Item("k", label="l", text="é" * 10)]), max_text_length=10) == {}


def test_labels_may_lack_where_the_data_set_has_none(root: Root) -> None:
    """An unlabelled source's items pass without a label."""
    assert reasons(root, ListSource([Item("k", text="t")], labeled=False)) == {}


def test_images_that_cannot_be_used_are_set_aside_by_reason(root: Root, image_root: Path) -> None:
    """By the row (no path, no label), by the file (gone, empty, no image, cut short) and by the limits."""
    (image_root / "l0" / "nothing.bmp").write_bytes(b"")
    (image_root / "l0" / "page.bmp").write_text("<html></html>")
    (image_root / "l0" / "cut.bmp").write_bytes((image_root / "l0" / "0.bmp").read_bytes()[:300])
    listing = list_image_items(image_root)
    listing += [Item("no path", label="l"), Item("gone", label="l", path="gone.bmp", size=1, mtime_ns=1)]
    listing += [Item("no label", path="l0/0.bmp", size=1, mtime_ns=1)]
    assert reasons(root, ListSource(listing, image_root=image_root)) == {
        "no path": "missing_path", "gone": "unopenable", "no label": "missing_label", "l0/nothing.bmp": "empty",
        "l0/page.bmp": "not_an_image", "l0/cut.bmp": "damaged",
    }  # fmt: skip
    write_noise(image_root / "l0" / "big.bmp", 90, side=40)
    assert set(reasons(root, make_image_source(image_root), min_side=25).values()) == {"too_small", "empty", "not_an_image"}


cells = st.sampled_from([None, "", " ", "a", "b!", "B", "a much longer text", "é"])


@given(st.dictionaries(st.sampled_from(["", *map(str, range(20))]), st.tuples(cells, cells), max_size=20), st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_an_item_or_a_reject(root: Root, table: dict[str, tuple[str | None, str | None]], labeled: bool) -> None:
    """Never both, never neither; and it is a reject exactly when a rule says so."""
    listing = [GOOD, *(Item(key, label=label, text=text) for key, (label, text) in table.items())]
    record = run_validate(root, ListSource(listing, labeled=labeled), max_text_length=10)
    passed, rejected = ([row["key"] for row in read_rows(root, table)] for table in (record.table, record.rejects))
    assert sorted(passed + rejected) == sorted(item.key for item in listing)
    sound = {
        item.key
        for item in listing
        if item.key and (item.label or (item.label is None and not labeled)) and item.text and 0 < len(item.text.strip()) <= 10
    }
    assert set(passed) == sound
    assert (record.items, record.rejected) == (len(passed), sum(record.rejected_by_reason.values())) == (len(passed), len(rejected))


def test_rejects_in_a_later_batch_are_their_own_rows(root: Root) -> None:
    """Row numbers start anew with each batch; what is set aside is what was wrong."""
    listing = [Item(f"k{number}", label="l", text="t" if number % 1000 else "") for number in range(20_000)]
    record = run_validate(root, ListSource(listing))
    assert {row["key"] for row in read_rows(root, record.rejects)} == {f"k{number}" for number in range(0, 20_000, 1000)}
    assert record.items == 19_980


def test_seen_since_is_the_first_day_of_the_same_fault(root: Root, image_root: Path, clock: list[int]) -> None:
    """It stays while key, reason and content stay, and begins anew with another content, another reason, or after a sound night."""
    write_noise(image_root / "l0" / "big.bmp", 90, side=40)
    bad = image_root / "l0" / "bad.bmp"

    def since(day: int, content: bytes, **limits: object) -> str:
        clock[0] = day
        bad.write_bytes(content)
        set_mtime(bad, OLD_MTIME_NS + day)
        found = {
            row["key"]: row["seen_since"] for row in read_rows(root, run_validate(root, make_image_source(image_root), **limits).rejects)
        }
        return found.get("l0/bad.bmp", "")[:10]

    sound = (image_root / "l0" / "0.bmp").read_bytes()
    assert since(1, b"rubbish") == since(2, b"rubbish") == "2026-09-01"
    assert since(3, b"other rubbish") == since(4, b"other rubbish") == "2026-09-03"
    assert since(5, sound) == ""
    assert since(6, b"other rubbish") == "2026-09-06"
    assert since(7, sound, min_side=30) == since(8, sound, min_side=30) == "2026-09-07"
    assert since(9, b"rubbish") == "2026-09-09"


def test_an_image_is_opened_once_by_content(root: Root, image_root: Path, tmp_path: Path) -> None:
    """Not again the next night, nor under another name, nor in another data set; a copy is opened with its original."""
    first = run_validate(root, make_image_source(image_root))
    assert opened(root) == 6
    write_noise(image_root / "l1" / "copy.bmp", seed=0)
    for number in range(6):
        write_noise(tmp_path / "other" / "label" / f"renamed-{number}.bmp", number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.tasks.validation.image_checks.DecoderPool", lambda *_: pytest.fail("opened again"))
        assert run_validate(root, make_image_source(image_root)).items == 7
        assert run_validate(root, make_image_source(tmp_path / "other"), "other").items == 6
    assert opened(root) == 6 and first.items == 6


def test_a_rejected_image_is_opened_again_only_once_its_bytes_change(root: Root, image_root: Path) -> None:
    """Touching it does nothing; other bytes are looked at, and then it passes."""
    bad = image_root / "l0" / "bad.bmp"
    bad.write_bytes(b"rubbish")
    run_validate(root, make_image_source(image_root))
    assert opened(root) == 7
    os.utime(bad)
    assert run_validate(root, make_image_source(image_root)).rejected == 1
    assert opened(root) == 7
    write_noise(bad, seed=50)
    assert run_validate(root, make_image_source(image_root)).rejected == 0
    assert opened(root) == 8


def test_other_limits_are_another_judgement(root: Root, image_root: Path) -> None:
    """What came of opening under one policy says nothing under another."""
    write_noise(image_root / "l0" / "big.bmp", 90, side=40)
    assert run_validate(root, make_image_source(image_root)).rejected == 0
    assert run_validate(root, make_image_source(image_root), min_side=25).rejected_by_reason == {"too_small": 6}


@pytest.mark.parametrize("reason", ["changed", "unopenable", "timeout", "damaged"])
def test_what_may_pass_is_tried_again_and_what_lasts_is_not(
    reason: str, root: Root, image_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow machine or a file in flux says nothing of the content; a damaged picture stays damaged."""
    from indexmill.tasks.validation.decoder_pool import DecoderPool

    with monkeypatch.context() as patch:
        patch.setattr(
            DecoderPool,
            "decode_all",
            lambda self, requests: (UnreadableImage(reason, "not tonight") if number else "0" * 64 for number, _ in enumerate(requests)),
        )
        assert run_validate(root, make_image_source(image_root)).rejected_by_reason == {reason: 5}
    again = run_validate(root, make_image_source(image_root))
    assert again.rejected == (5 if reason == "damaged" else 0)


def test_a_file_that_changed_since_it_was_listed_is_set_aside_until_it_is_listed_anew(root: Root, image_root: Path) -> None:
    """Its digest would be that of other bytes."""
    dataset = run_ingest(root, make_image_source(image_root))
    set_mtime(write_noise(image_root / "l0" / "0.bmp", seed=77), OLD_MTIME_NS + 1)
    record = validate.fn(root, dataset, ValidateConfig(max_reject_fraction=1))
    assert record.rejected_by_reason == {"changed": 1}
    assert reasons(root, make_image_source(image_root)) == {}


def test_too_many_rejects_stop_with_their_counts_the_most_frequent_first(root: Root) -> None:
    """The bound itself is allowed; one more is not; a data set of nothing but rejects never is."""
    listing = [Item(f"k{number}", label="l", text="t") for number in range(7)]
    bad = [Item("x", label=None, text="t"), Item("y", label="l", text=""), Item("z", label="l", text="")]
    assert run_validate(root, ListSource([*listing, *bad]), max_reject_fraction=0.3).rejected == 3
    with pytest.raises(InputError, match=r"3 of 10 \(30.0%\): empty_text 2, missing_label 1"):
        run_validate(root, ListSource([*listing, *bad]), max_reject_fraction=0.29)
    with pytest.raises(InputError, match=r"3 of 3 \(100.0%\)"):
        run_validate(root, ListSource(bad), max_reject_fraction=1)
