"""Every row is used or rejected with a reason, and no image is decoded twice without need."""

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
from indexmill.storage.records import Dataset
from indexmill.storage.root import Root
from indexmill.tasks.sources import Item
from indexmill.tasks.validate import _check_reject_fraction, validate
from indexmill.tasks.validation.image_reader import UnreadableImage
from tests.examples import count_examples
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
    """The day of September 2026 on which rejects are written; tests change it."""
    day = [1]

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(2026, 9, day[0], tzinfo=UTC)

    monkeypatch.setattr("indexmill.tasks.validation.rejects.datetime", Clock)
    yield day


def collect_reasons(root: Root, source: ListSource, **limits: object) -> dict[str, str]:
    """Return key -> reason of every reject."""
    return {row["key"]: row["reason"] for row in read_rows(root, run_validate(root, source, **limits).rejects)}


def count_cached_checks(root: Root) -> int:
    """Return the number of cached image checks."""
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
def test_an_invalid_text_is_rejected_with_its_reason(reason: str, root: Root) -> None:
    """The reason is the expected code, the message is not empty, and the valid item next to it passes."""
    record = run_validate(root, ListSource([GOOD, TEXTS[reason]]), max_text_length=10)
    (reject,) = read_rows(root, record.rejects)
    assert (reject["key"], reject["reason"]) == (TEXTS[reason].key, reason) and reject["message"]
    assert [row["key"] for row in read_rows(root, record.table)] == ["good"]
    assert (record.items, record.rejected, record.rejected_by_reason) == (1, 1, {reason: 1})


def test_text_length_counts_characters(root: Root) -> None:
    """Ten accented letters are ten characters, however many bytes they take."""
    assert collect_reasons(root, ListSource([GOOD, Item("k", label="l", text="é" * 10)]), max_text_length=10) == {}


def test_labels_may_be_missing_in_an_unlabeled_data_set(root: Root) -> None:
    """Its items pass without a label."""
    assert collect_reasons(root, ListSource([Item("k", text="t")], labeled=False)) == {}


def test_unusable_images_are_rejected_by_reason(root: Root, image_root: Path) -> None:
    """For the row (no path, no label), the file (missing, empty, no image, truncated) or the limits."""
    (image_root / "l0" / "nothing.bmp").write_bytes(b"")
    (image_root / "l0" / "page.bmp").write_text("<html></html>")
    (image_root / "l0" / "cut.bmp").write_bytes((image_root / "l0" / "0.bmp").read_bytes()[:300])
    listing = list_image_items(image_root)
    listing += [Item("no path", label="l"), Item("gone", label="l", path="gone.bmp", size=1, mtime_ns=1)]
    listing += [Item("no label", path="l0/0.bmp", size=1, mtime_ns=1)]
    assert collect_reasons(root, ListSource(listing, image_root=image_root)) == {
        "no path": "missing_path",
        "gone": "unopenable",
        "no label": "missing_label",
        "l0/nothing.bmp": "empty",
        "l0/page.bmp": "not_an_image",
        "l0/cut.bmp": "damaged",
    }
    write_noise(image_root / "l0" / "big.bmp", 90, side=40)
    assert set(collect_reasons(root, make_image_source(image_root), min_side=25).values()) == {"too_small", "empty", "not_an_image"}


cells = st.sampled_from([None, "", " ", "a", "b!", "B", "a much longer text", "é"])


@given(st.dictionaries(st.sampled_from(["", *map(str, range(20))]), st.tuples(cells, cells), max_size=20), st.booleans())
@settings(max_examples=count_examples(15), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_an_item_or_a_reject(root: Root, table: dict[str, tuple[str | None, str | None]], labeled: bool) -> None:
    """Never both, never neither, and a reject exactly if a rule says so."""
    listing = [GOOD, *(Item(key, label=label, text=text) for key, (label, text) in table.items())]
    record = run_validate(root, ListSource(listing, labeled=labeled), max_text_length=10)
    passed, rejected = ([row["key"] for row in read_rows(root, table)] for table in (record.table, record.rejects))
    assert sorted(passed + rejected) == sorted(item.key for item in listing)
    valid = {
        item.key
        for item in listing
        if item.key and (item.label or (item.label is None and not labeled)) and item.text and 0 < len(item.text.strip()) <= 10
    }
    assert set(passed) == valid
    assert (record.items, record.rejected) == (len(passed), sum(record.rejected_by_reason.values())) == (len(passed), len(rejected))


def test_rejects_in_a_later_batch_are_the_right_rows(root: Root) -> None:
    """Row numbers restart in each batch."""
    listing = [Item(f"k{number}", label="l", text="t" if number % 1000 else "") for number in range(20_000)]
    record = run_validate(root, ListSource(listing))
    assert {row["key"] for row in read_rows(root, record.rejects)} == {f"k{number}" for number in range(0, 20_000, 1000)}
    assert record.items == 19_980


def test_seen_since_is_the_first_day_of_the_same_reject(root: Root, image_root: Path, clock: list[int]) -> None:
    """It stays while key, reason and content stay. New content, a new reason or a valid build restarts it."""
    write_noise(image_root / "l0" / "big.bmp", 90, side=40)
    bad = image_root / "l0" / "bad.bmp"

    def get_date(day: int, content: bytes, **limits: object) -> str:
        clock[0] = day
        bad.write_bytes(content)
        set_mtime(bad, OLD_MTIME_NS + day)
        dates = {
            row["key"]: row["seen_since"] for row in read_rows(root, run_validate(root, make_image_source(image_root), **limits).rejects)
        }
        return dates.get("l0/bad.bmp", "")[:10]

    valid = (image_root / "l0" / "0.bmp").read_bytes()
    assert get_date(1, b"rubbish") == get_date(2, b"rubbish") == "2026-09-01"
    assert get_date(3, b"other rubbish") == get_date(4, b"other rubbish") == "2026-09-03"
    assert get_date(5, valid) == ""
    assert get_date(6, b"other rubbish") == "2026-09-06"
    assert get_date(7, valid, min_side=30) == get_date(8, valid, min_side=30) == "2026-09-07"
    assert get_date(9, b"rubbish") == "2026-09-09"


def test_an_image_is_decoded_once_by_content(root: Root, image_root: Path, tmp_path: Path) -> None:
    """Not again in the next build, under another name or in another data set."""
    first = run_validate(root, make_image_source(image_root))
    assert count_cached_checks(root) == 6
    write_noise(image_root / "l1" / "copy.bmp", seed=0)
    for number in range(6):
        write_noise(tmp_path / "other" / "label" / f"renamed-{number}.bmp", number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexmill.tasks.validation.image_checks.DecoderPool", lambda *args, **options: pytest.fail("decoded again"))
        assert run_validate(root, make_image_source(image_root)).items == 7
        assert run_validate(root, make_image_source(tmp_path / "other"), "other").items == 6
    assert count_cached_checks(root) == 6 and first.items == 6


def test_a_rejected_image_is_decoded_again_only_if_its_bytes_change(root: Root, image_root: Path) -> None:
    """Touching it does nothing; new bytes are decoded and pass."""
    bad = image_root / "l0" / "bad.bmp"
    bad.write_bytes(b"rubbish")
    run_validate(root, make_image_source(image_root))
    assert count_cached_checks(root) == 7
    os.utime(bad)
    assert run_validate(root, make_image_source(image_root)).rejected == 1
    assert count_cached_checks(root) == 7
    write_noise(bad, seed=50)
    assert run_validate(root, make_image_source(image_root)).rejected == 0
    assert count_cached_checks(root) == 8


def test_other_limits_need_another_check(root: Root, image_root: Path) -> None:
    """A result under one policy is not used under another."""
    write_noise(image_root / "l0" / "big.bmp", 90, side=40)
    assert run_validate(root, make_image_source(image_root)).rejected == 0
    assert run_validate(root, make_image_source(image_root), min_side=25).rejected_by_reason == {"too_small": 6}


@pytest.mark.parametrize("reason", ["changed", "unopenable", "timeout", "damaged"])
def test_transient_rejects_are_checked_again_and_permanent_ones_are_not(
    reason: str, root: Root, image_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow machine or a changing file says nothing about the content; a damaged image stays damaged."""
    from indexmill.tasks.validation.decoder_pool import DecoderPool

    with monkeypatch.context() as patch:
        patch.setattr(
            DecoderPool,
            "decode_all",
            lambda self, requests: (UnreadableImage(reason, "not now") if number else "0" * 64 for number, _ in enumerate(requests)),
        )
        assert run_validate(root, make_image_source(image_root)).rejected_by_reason == {reason: 5}
    second = run_validate(root, make_image_source(image_root))
    assert second.rejected == (5 if reason == "damaged" else 0)


def test_a_file_that_changed_after_listing_is_rejected_until_it_is_listed_again(root: Root, image_root: Path) -> None:
    """Its digest no longer matches its bytes."""
    dataset = run_ingest(root, make_image_source(image_root))
    set_mtime(write_noise(image_root / "l0" / "0.bmp", seed=77), OLD_MTIME_NS + 1)
    record = validate.fn(root, dataset, ValidateConfig(max_reject_fraction=1))
    assert record.rejected_by_reason == {"changed": 1}
    assert collect_reasons(root, make_image_source(image_root)) == {}


def test_rejects_of_refused_addresses_name_the_key_that_allows_them() -> None:
    """Others do not."""
    dataset = Dataset.model_construct(name="some", items=2, image_root=None)
    for counts, is_named in (({"address_refused": 2}, True), ({"not_found": 2}, False)):
        with pytest.raises(InputError) as raised:
            _check_reject_fraction(dataset, ValidateConfig(), counts, "k: m")
        assert ("dataset.downloads.allow_private" in raised.value.next_step) is is_named


def test_too_many_rejects_stop_the_build_with_counts_by_reason(root: Root) -> None:
    """The limit itself is allowed. A data set of rejects alone never is. The most frequent reason comes first."""
    listing = [Item(f"k{number}", label="l", text="t") for number in range(7)]
    bad = [Item("x", label=None, text="t"), Item("y", label="l", text=""), Item("z", label="l", text="")]
    assert run_validate(root, ListSource([*listing, *bad]), max_reject_fraction=0.3).rejected == 3
    with pytest.raises(InputError, match=r"3 of 10 \(30.0%\): empty_text 2, missing_label 1"):
        run_validate(root, ListSource([*listing, *bad]), max_reject_fraction=0.29)
    with pytest.raises(InputError, match=r"3 of 3 \(100.0%\)"):
        run_validate(root, ListSource(bad), max_reject_fraction=1)
