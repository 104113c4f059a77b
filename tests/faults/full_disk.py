"""Builds on a small disk of their own that is full from a chosen commit on, each followed by a plain build once there is room.

Run by `unshare --mount`, so that the disk is seen by this process and its children alone. Argument: JSON with `mount`, an empty folder;
`encoded`, a root whose vectors are known; `before` and `after`, two folders of pictures; `settings`; and `points`, each a number of a
commit of the build of `after` (0 before it begins), or a text that the path of one holds. Without points: at each. A line of JSON a point
comes on standard output.
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

from indexmill.flows.build_index import build_index  # noqa: E402  (Prefect is slow to import, and mounting may not be allowed)


def build(root: Path, pictures: str) -> dict[str, Any]:
    summary = build_index("demo-images", str(root), [f"dataset.path={pictures}", *task["settings"]])
    summary["rows"] = pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist()
    return summary


def fill() -> None:
    """Take all room that is left, to the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


@contextmanager
def full_after(point: int | str) -> Iterator[list[str]]:
    """The disk is full from there on; yields the targets of the commits so far."""
    commit, done = atomic.commit, list[str]()

    def filling(temporary: Path, target: Path) -> None:
        commit(temporary, target)
        done.append(str(target))
        if (len(done) == point if isinstance(point, int) else point in str(target)) and not (disk / "filler").exists():
            fill()

    atomic.commit = filling
    if point == 0:
        fill()
    try:
        yield done
    finally:
        atomic.commit = commit
        (disk / "filler").unlink(missing_ok=True)


def live(root: Path) -> str | None:
    """The live snapshot, every file of it checked."""
    snapshots = Snapshots(Root(root), "demo-images")
    snapshots.verify(snapshots.read_manifest())
    return snapshots.get_live_id()


def outcome(point: int | str, base: Path, whole: dict[str, Any]) -> dict[str, Any]:
    """What came of a build whose disk was full, and what of the next one."""
    root = disk / "root"
    shutil.copytree(base, root)
    before, told = live(root), {"point": point, "error": "", "kind": ""}
    try:
        with full_after(point) as done:
            build(root, task["after"])
    except Exception as problem:
        told |= {"error": str(problem), "kind": type(problem).__name__, "own": isinstance(problem, IndexmillError)}
        told["chain"] = repr(problem.__cause__)
    told |= {"last": done[-1].removeprefix(str(root)) if done else "", "live": live(root) in (before, whole["snapshot_id"])}
    summary = build(root, task["after"])
    told["same"] = all(summary[name] == whole[name] for name in ("snapshot_id", "metrics", "rows"))
    told["left"] = [path.name for path in (root / "tmp").glob("*-*")]
    shutil.rmtree(root)
    return told


base, other = disk / "base", disk / "other"
for name in ("embeddings", "encoders"):
    shutil.copytree(Path(task["encoded"]) / name, base / name)
build(base, task["before"])
shutil.copytree(base, other)
with full_after(-1) as commits:
    whole = build(other, task["after"])
shutil.rmtree(other)
for point in task.get("points") or range(len(commits) + 1):
    print(json.dumps(outcome(point, base, whole)), flush=True)
