"""Builds that die, and what must be true of a root afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
import pyarrow.parquet as pq

from indexmill.storage import atomic, catalog
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.manifests import Manifest
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import SETTINGS

HERE = Path(__file__).parent


def arguments(root: Path | str, pictures: Path, *settings: str) -> list[str]:
    """Return the arguments of `indexmill build` for the digits."""
    changes = [f"dataset.path={pictures}", *SETTINGS, *settings]
    return ["build", "demo-images", "--root", str(root), "--json", *(part for change in changes for part in ("--set", change))]


def run(
    when: str, which: str, root: Path | str, pictures: Path, *settings: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `killed_build.py` in a process of its own."""
    command = [sys.executable, str(HERE / "killed_build.py"), when, which, *arguments(root, pictures, *settings)]
    return subprocess.run(command, env=env, cwd=HERE.parents[1], capture_output=True, timeout=900)


def run_killed(when: str, which: str, root: Path | str, pictures: Path, *settings: str, env: dict[str, str] | None = None) -> None:
    """Run a build that kills itself, and check that it did."""
    done = run(when, which, root, pictures, *settings, env=env)
    assert done.returncode == -9, done.stderr.decode()[-2000:]


@contextmanager
def at_commit(text: str, action: Callable[[], object]) -> Iterator[list[Any]]:
    """Call `action` once within the block, after the first commit of a file whose path contains `text`. Yields a list for its result."""
    commit, commit_if_absent, once, results = atomic.commit, atomic.commit_if_absent, threading.Lock(), list[Any]()

    def commit_and_act(temporary: Path, target: Path, commit: Callable[[Path, Path], Any] = commit) -> None:
        commit(temporary, target)
        if text in str(target) and once.acquire(blocking=False):  # shards are committed in threads
            results.append(action())

    atomic.commit, atomic.commit_if_absent = commit_and_act, partial(commit_and_act, commit=commit_if_absent)
    try:
        yield results
    finally:
        atomic.commit, atomic.commit_if_absent = commit, commit_if_absent


def read_items(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a snapshot's items.parquet."""
    return list(pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist())


def check_consistency(path: Path) -> Manifest:
    """Check that manifest, items, index, embedding store and catalog agree, item by item. Returns the live manifest."""
    root = Root(path)
    snapshots = Snapshots(root, "demo-images")
    live = snapshots.read_manifest()
    snapshots.verify(live)
    folder = snapshots.get_path(live.snapshot_id)
    rows = pq.read_table(folder / "items.parquet").to_pylist()
    stored = [row for part in EmbeddingStore(root, live.fingerprint).list_parts() for row in pq.read_table(part).to_pylist()]
    vectors = {row["content_digest"]: np.array(row["embedding"], np.float32) for row in stored}
    assert len(vectors) == len(stored)
    digests, indexed = {row["item_id"]: row["content_digest"] for row in rows}, []
    for shard in live.shards:
        index = faiss.read_index(str(folder / shard.index.path))
        inner = faiss.downcast_index(index.index)
        for position, item in enumerate(faiss.vector_to_array(index.id_map).tolist()):
            assert np.abs(inner.reconstruct(position) - vectors[digests[item]]).max() < 1e-6, item
            indexed.append(item)
    assert sorted(indexed) == sorted(digests)
    assert len(rows) == live.items
    catalog.rebuild(root)
    (row,) = [build for build in catalog.list_builds(root) if build["live"]]
    assert (row["snapshot_id"], row["items"], row["rejected"]) == (live.snapshot_id, live.items, live.rejected)
    root.close()
    return live


def list_processes(root: Path) -> list[str]:
    """Return the command lines of processes whose environment names this root: the embedded server's."""
    commands = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("PREFECT_HOME", "").startswith(str(root)):
                commands.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return commands
