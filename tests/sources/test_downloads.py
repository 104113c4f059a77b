"""Folder names and revision pins of downloaded sources."""

from __future__ import annotations

from pathlib import Path

from indexmill.storage.root import Root
from indexmill.tasks.sources.downloads import make_slug, read_pin, write_pin


def test_a_slug_is_readable_and_differs_for_other_options() -> None:
    """The same data set and options give the same folder; similar names and other options give others."""
    assert make_slug("kaggle", "a/b").startswith("kaggle-a-b-")
    assert make_slug("kaggle", "a/b") == make_slug("kaggle", "a/b")
    assert len({make_slug("kaggle", "a/b"), make_slug("kaggle", "a-b"), make_slug("hub", "a/b"), make_slug("hub", "a/b", ["train"])}) == 4


def test_a_pin_holds_the_last_revision(root: Root) -> None:
    """Pins are stored by name under the root."""
    assert read_pin(root, "ours", "main") is None
    write_pin(root, "ours", "main", "1")
    write_pin(root, "ours", "main", "2")
    write_pin(root, "ours", "refs/pr/1", "3")
    assert (read_pin(root, "ours", "main"), read_pin(root, "ours", "refs/pr/1")) == ("2", "3")


def test_a_damaged_pin_counts_as_missing(root: Root) -> None:
    """A pin of another form is resolved again instead of stopping the build."""
    write_pin(root, "ours", "main", "1")
    (pin,) = Path(root.path).glob("sources/ours/pin-*.json")
    pin.write_text('{"called": "main"}')
    assert read_pin(root, "ours", "main") is None
