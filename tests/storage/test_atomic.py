"""Files are complete or missing, never half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexmill.storage import atomic
from indexmill.storage.root import Root


def test_a_failed_write_leaves_the_old_file_and_no_temporary(root: Root) -> None:
    """An exception before the commit changes nothing that a reader can see."""
    target = root.path / "file.txt"
    root.scratch.write_text(target, "old")
    with pytest.raises(RuntimeError), root.replace_atomically(target) as temporary:
        temporary.write_text("half of the new file")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in root.scratch.folder.iterdir()] == ["lock"]


def test_a_commit_syncs_the_file_before_it_is_renamed_and_its_folder_after(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that survives a power failure must not point at unwritten data."""
    events: list[str] = []
    sync = atomic._fsync
    monkeypatch.setattr(atomic, "_fsync", lambda path: (events.append(f"sync {path.name}"), sync(path)))
    target = root.path / "folder" / "file.txt"
    with root.replace_atomically(target) as temporary:
        temporary.write_text("text")
        assert not target.exists()
    assert events == ["sync file.txt", "sync folder"]


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_files_that_are_created_the_first_stays(root: Root, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    """Two workers may do the same job; readers have seen the first one's file. Also on a file system without hard links."""

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    target = root.path / "folder" / "file.txt"
    for text in ("first", "second"):
        with root.create_atomically(target) as temporary:
            temporary.write_text(text)
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]
    assert [path.name for path in root.scratch.folder.iterdir()] == ["lock"]


def test_temporaries_of_a_killed_process_are_removed_and_those_of_a_running_one_stay(root: Root) -> None:
    """The lock decides, not the age and not the process id."""
    code = (
        "import sys, time; from indexmill.storage.root import Root; r = Root(sys.argv[1]);"
        "(r.scratch.folder / 'half').write_text('x'); print(r.scratch.folder, flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(root.path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    theirs, ours = Path(child.stdout.readline().strip()), root.scratch.folder
    assert root.remove_stale_temporaries() == 0
    assert theirs.exists()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert root.remove_stale_temporaries() == 1
    assert not theirs.exists()
    assert ours.exists()


def test_a_link_falls_back_to_a_copy(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots work on a file system without hard links."""

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    source = root.path / "source"
    source.write_text("text")
    monkeypatch.setattr(os, "link", refuse)
    atomic.link(source, root.path / "target", root.scratch)
    assert (root.path / "target").read_text() == "text"
    assert (root.path / "target").stat().st_ino != source.stat().st_ino


def test_files_of_a_killed_query_stay_for_duckdb(root: Root) -> None:
    # DuckDB removes them when it spills again, if their process has ended.
    spilled = root.tmp / "duckdb_temp_1_0_storage_DEFAULT-0.tmp"
    spilled.parent.mkdir(exist_ok=True)
    spilled.touch()
    assert root.remove_stale_temporaries() == 0
    assert spilled.exists()
