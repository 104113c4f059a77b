"""A text is grouped once, and the groups that are used again are those of a build from nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from indexmill.storage.records import ValidatedDataset
from indexmill.storage.root import Root
from indexmill.tasks import validate as stage
from indexmill.tasks.sources import Item
from indexmill.tasks.stage_policy import TASK_POLICIES
from indexmill.tasks.validation.text_groups import compute_text_group
from tests.stage_inputs import ListSource, read_rows, run_validate

FIRST = {"a": "One text.", "b": "Another text", "c": "one TEXT", "d": "gone tomorrow", "e": ""}
SECOND = {"a": "One text.", "b": "Changed!", "c": "one TEXT", "new": "another text", "twin": "Another text", "e": ""}


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were normalized for grouping since the list was last cleared."""
    texts: list[str] = []

    def compute(text: str) -> str:
        texts.append(text)
        return compute_text_group(text)

    monkeypatch.setattr(stage, "compute_text_group", compute)
    return texts


def run(root: Root, texts: dict[str, str], **limits: object) -> ValidatedDataset:
    return run_validate(root, ListSource([Item(key, label="l", text=text) for key, text in texts.items()]), **limits)


@pytest.fixture
def from_nothing(tmp_path: Path) -> Callable[..., ValidatedDataset]:
    def build(texts: dict[str, str], **limits: object) -> ValidatedDataset:
        root = Root(tmp_path / "another")
        try:
            return run(root, texts, **limits)
        finally:
            root.close()

    return build


def test_only_new_and_changed_texts_are_grouped(root: Root, grouped: list[str], from_nothing: Callable[..., ValidatedDataset]) -> None:
    run(root, FIRST)
    assert sorted(grouped) == sorted(text for text in FIRST.values() if text)
    grouped.clear()
    second = run(root, SECOND)
    assert sorted(grouped) == ["Changed!", "another text"]
    assert second.digest == from_nothing(SECOND).digest
    groups = {row["key"]: row["content_group"] for row in read_rows(root, second.table)}
    assert groups == {key: compute_text_group(text) for key, text in SECOND.items() if text}


def test_a_known_text_is_checked_under_the_new_limits(root: Root, from_nothing: Callable[..., ValidatedDataset]) -> None:
    assert run(root, FIRST).rejected_by_reason == {"empty_text": 1}
    limited = run(root, FIRST, max_text_length=10)
    assert limited.rejected_by_reason == {"empty_text": 1, "text_too_long": 2}
    assert limited.digest == from_nothing(FIRST, max_text_length=10).digest


@pytest.mark.parametrize("change", ["stage", "unicode"])
def test_groups_of_another_version_are_not_used(change: str, root: Root, grouped: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, FIRST)
    grouped.clear()
    if change == "stage":
        monkeypatch.setitem(TASK_POLICIES, "validate", replace(TASK_POLICIES["validate"], version=1000))
    else:
        monkeypatch.setattr("unicodedata.unidata_version", "1000.0")
    run(root, FIRST)
    assert len(grouped) == 4


def test_damaged_groups_are_not_used(root: Root, grouped: list[str]) -> None:
    first = run(root, FIRST)
    (file,) = root.path.glob("datasets/some/cache/text-groups-*.parquet")
    content = file.read_bytes()
    file.write_bytes(content[:20] + bytes(byte ^ 255 for byte in content[20:40]) + content[40:])
    grouped.clear()
    assert run(root, FIRST).digest == first.digest
    assert len(grouped) == 4


def test_groups_of_another_data_set_are_not_needed(root: Root, grouped: list[str]) -> None:
    """Two data sets may be built at the same time, so each has a file of its own."""
    run(root, FIRST)
    items = [Item(key, label="l", text=text) for key, text in FIRST.items()]
    grouped.clear()
    run_validate(root, ListSource(items), "other")
    assert len(grouped) == 4
