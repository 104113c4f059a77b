"""Builds killed just before and just after a commit: the next one ends like an undisturbed one.

Two commits by default, spread over the build; all of them with INDEXMILL_SOAK set (`make soak`). With the root in an object
store the commits are its writes, the next build runs on another machine, and nothing that was recorded is done again.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from indexmill.flows.build_index import build_index
from indexmill.storage.copying import copy_root
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import SETTINGS, Build, FinishedBuild
from tests.faults.killing import check_consistency, read_items, run, run_killed

LONG = "INDEXMILL_SOAK" in os.environ


@pytest.mark.slow
def test_a_build_may_die_at_any_commit(undisturbed: dict[str, Any], digits: Path, quick_build: Build, tmp_path: Path) -> None:
    """Items, metrics and snapshot are the undisturbed build's, nothing temporary is left, and meanwhile the live snapshot is intact."""
    count = count_commits(copy_encoded(tmp_path, "count"), digits, tmp_path / "count.txt")
    assert count > 20
    for when, number in choose_commits(count):
        root = copy_encoded(tmp_path, f"{when}-{number}")
        run_killed(when, str(number), root, digits)
        snapshots = Snapshots(Root(root), "demo-images")
        if snapshots.get_live_id():
            snapshots.verify(snapshots.read_manifest())
        summary = quick_build(digits, *SETTINGS, root=root)
        assert read_items(summary) == read_items(undisturbed), (when, number)
        assert (summary["metrics"], summary["snapshot_id"]) == (undisturbed["metrics"], undisturbed["snapshot_id"]), (when, number)
        check_consistency(root)
        assert not list((root / "tmp").glob("*-*")), (when, number)


def copy_encoded(folder: Path, name: str) -> Path:
    """Copy the root of `quick_build`, in which the digits are encoded; all of a build is run where every commit is tried."""
    return folder / name if LONG else Path(shutil.copytree(folder / "root", folder / name))


def count_commits(root: Path | str, digits: Path, output: Path) -> int:
    done = run("count", str(output), root, digits)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return int(output.read_text())


def choose_commits(count: int) -> list[tuple[str, int]]:
    if LONG:
        return [(when, number) for number in range(1, count + 1) for when in ("before", "after")]
    return [("before", count // 3), ("after", count * 3 // 4)]


@pytest.mark.slow
def test_a_build_in_a_store_may_die_at_any_write(
    finished_build: FinishedBuild, next_build: Build, pictures: Path, bucket_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The night after a first build: a picture is gone. `current` names the old snapshot or, once replaced, the new one."""
    next(pictures.rglob("*.png")).unlink()
    undisturbed = next_build(pictures)
    kills = [("before", "indexes/demo-images/current"), ("after", "/shards/")]
    if LONG:
        count = count_commits(copy_to_store(finished_build, f"{bucket_url}/count"), pictures, tmp_path / "count.txt")
        assert count > 20
        kills = [(when, str(number)) for when, number in choose_commits(count)]
    for number, (when, which) in enumerate(kills):
        url = copy_to_store(finished_build, f"{bucket_url}/{number}")
        monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / f"first-{number}"))
        run_killed(when, which, url, pictures)
        client = ObjectClient(url)
        live = client.read("indexes/demo-images/current")
        assert live
        assert live.data.decode().strip() in {finished_build.summary["snapshot_id"], undisturbed["snapshot_id"]}
        recorded = list_recorded(client)
        monkeypatch.setenv("INDEXMILL_CACHE", str(tmp_path / f"second-{number}"))
        Snapshots(Root(url), "demo-images").verify(Snapshots(Root(url), "demo-images").read_manifest())
        summary = build_index("demo-images", url, [f"dataset.path={pictures}", *SETTINGS])
        assert (summary["metrics"], summary["snapshot_id"]) == (undisturbed["metrics"], undisturbed["snapshot_id"]), (when, which)
        assert read_items(summary) == read_items(undisturbed), (when, which)
        assert {key: version for key, version in list_versions(client).items() if key in recorded} == recorded, (when, which)
        assert not [key for key in list_versions(client) if key.startswith(("jobs/", "probe/"))]


def copy_to_store(finished_build: FinishedBuild, url: str) -> str:
    source, target = Root(finished_build.root, create=False), Root(url)
    copy_root(source, target, lambda _: None)
    target.close()
    return url


def list_versions(client: ObjectClient) -> dict[str, float]:
    """Key -> when it was written."""
    return {entry.key: entry.modified for entry in client.list()}


def list_recorded(client: ObjectClient) -> dict[str, float]:
    """The records of finished stages and shards, and the files that they name, as `list_versions` gives them."""
    versions, keys = list_versions(client), set[str]()
    for key in versions:
        if key.startswith("cache/") and (content := client.read(key)):
            keys |= {key, *find_paths(json.loads(json.loads(content.data)["result"]))}
        elif "/shards/" in key and key.endswith(".json") and (content := client.read(key)):
            keys |= {key, *find_paths(json.loads(content.data))}
    return {key: version for key, version in versions.items() if key in keys}


def find_paths(value: Any) -> set[str]:
    """The values of all keys `path` in JSON."""
    if isinstance(value, list):
        return {path for entry in value for path in find_paths(entry)}
    if isinstance(value, dict):
        found = {path for entry in value.values() for path in find_paths(entry)}
        return found | ({value["path"]} if isinstance(value.get("path"), str) else set())
    return set()
