"""The demo's digits: only images are written, and an interrupted run is completed."""

from __future__ import annotations

from indexmill.storage.root import Root
from indexmill.tasks.sources.digits import write_digits


def test_digits_are_complete_after_an_interrupted_run(root: Root) -> None:
    """Without the last image and another one, all 600 are there again; with the last one, nothing is written."""
    folder = write_digits(root)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) == 600
    assert {path.suffix for path in files} == {".png"}
    last = next(path for path in files if path.name == "0599.png")
    last.unlink()
    files[0].unlink()
    write_digits(root)
    assert sorted(path for path in folder.rglob("*") if path.is_file()) == files
    files[0].unlink()
    write_digits(root)
    assert not files[0].exists()
