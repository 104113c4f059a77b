"""Run builds on a small disk that is full from a chosen commit on, each followed by a build with free space.

Run by `unshare --mount`, so that only this process and its children see the disk. Argument: JSON with `mount`, an empty folder;
`encoded`, a root with the images' vectors; `before` and `after`, two folders of images; `settings`; and `points`, each a number of a
commit of the build of `after` (0: before it begins), or text that the path of one contains. Without points: every commit. Prints one
line of JSON per point.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from indexmill.storage import atomic
from indexmill.storage.errors import IndexmillError
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

BYTES = 256 << 20
task = json.loads(sys.argv[1])
disk = Path(task["mount"])
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={BYTES}", "none", str(disk)], check=True)

from indexmill.flows.build_index import build_index  # noqa: E402  (slow to import, and mounting may not be allowed)


def build(root: Path, pictures: str) -> dict[str, Any]:
    summary = build_index("demo-images", str(root), [f"dataset.path={pictures}", *task["settings"]])
    summary["rows"] = pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist()
    return summary


def fill() -> None:
    """Use all free space, to the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


@contextmanager
def full_after(point: int | str) -> Iterator[list[str]]:
    """Fill the disk after a commit; yields the targets of the commits so far."""
    commit, targets = atomic.commit, list[str]()

    def commit_and_fill(temporary: Path, target: Path) -> None:
        commit(temporary, target)
        targets.append(str(target))
        if (len(targets) == point if isinstance(point, int) else point in str(target)) and not (disk / "filler").exists():
            fill()

    atomic.commit = commit_and_fill
    if point == 0:
        fill()
    try:
        yield targets
    finally:
        atomic.commit = commit
        (disk / "filler").unlink(missing_ok=True)


def verify_live_snapshot(root: Path) -> str | None:
    """Check every file of the live snapshot. Returns its id."""
    snapshots = Snapshots(Root(root), "demo-images")
    snapshots.verify(snapshots.read_manifest())
    return snapshots.get_live_id()


def try_point(point: int | str, base: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Build with a disk that becomes full, then build again. Returns what happened."""
    root = disk / "root"
    shutil.copytree(base, root)
    before, outcome = verify_live_snapshot(root), {"point": point, "error": "", "kind": ""}
    try:
        with full_after(point) as targets:
            build(root, task["after"])
    except Exception as error:
        outcome |= {"error": str(error), "kind": type(error).__name__, "own": isinstance(error, IndexmillError)}
        outcome["chain"] = repr(error.__cause__)
    outcome |= {"last": targets[-1].removeprefix(str(root)) if targets else ""}
    outcome["live"] = verify_live_snapshot(root) in (before, expected["snapshot_id"])
    summary = build(root, task["after"])
    outcome["same"] = all(summary[name] == expected[name] for name in ("snapshot_id", "metrics", "rows"))
    outcome["left"] = [path.name for path in (root / "tmp").glob("*-*")]
    shutil.rmtree(root)
    return outcome


base, other = disk / "base", disk / "other"
for name in ("embeddings", "encoders", "image_checks"):
    shutil.copytree(Path(task["encoded"]) / name, base / name)
build(base, task["before"])
shutil.copytree(base, other)
with full_after(-1) as commits:
    expected = build(other, task["after"])
shutil.rmtree(other)
for point in task.get("points") or range(len(commits) + 1):
    print(json.dumps(try_point(point, base, expected)), flush=True)
