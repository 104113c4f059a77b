"""Files that go, are cut short or overwritten, between builds and in the midst of one: made anew, told, and never the end of it all.

Some of them at once in the usual run; each by itself with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.storage.errors import IndexmillError
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build
from tests.faults.killing import SETTINGS, agrees, at_commit, items

Harm = Callable[[Path], None]
LONG = "INDEXMILL_SOAK" in os.environ


def removed(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    """Cut short, under a new inode: files that share its bytes by a link keep them."""
    replaced(path, path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    """64 bytes in the middle become others."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    replaced(path, bytes(content))


def replaced(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)


# What a build reads that earlier ones left behind.
READ = (
    "embeddings/*/part-*", "image_checks/*/part-*", "datasets/*/cache/*", "datasets/*/ingested/*/items.parquet",
    "datasets/*/validated/*/items.parquet", "datasets/*/split/*/items.parquet", "indexes/*/shards/*.faiss", "indexes/*/trained/*",
    "indexes/*/evaluations/*/*", "encoders/*/*.json", "cache/*", "catalog.duckdb",
)  # fmt: skip
Harms = list[tuple[Harm, str]]
MIXED: list[Harms] = [[((overwritten, cut)[number % 2], read) for number, read in enumerate(READ)]]
EACH: list[Harms] = [[(harm, read)] for harm in (removed, cut, overwritten) for read in (*READ, "indexes/*/current")]


def harmed(root: Path, harms: Harms) -> int:
    """Harm the files of these patterns; how many those were."""
    files = [(harm, path) for harm, pattern in harms for path in root.glob(pattern) if path.is_file()]
    for harm, path in files:
        harm(path)
    return len(files)


@pytest.fixture(scope="module")
def nights(encoded_digits: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A root after its first night, the pictures of the second, and what that one gives there undisturbed."""
    from indexmill.flows.build_index import build_index

    folder = tmp_path_factory.mktemp("nights")
    root, pictures = folder / "root", Path(shutil.copytree(digits, folder / "pictures"))
    for name in ("embeddings", "encoders"):
        shutil.copytree(encoded_digits / name, root / name)
    build_index("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS])
    first = Path(shutil.copytree(root, folder / "first"))
    shutil.rmtree(pictures / "9")
    return first, pictures, build_index("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS])


def test_what_is_damaged_between_builds_is_made_anew(nights: tuple[Path, Path, dict[str, Any]], build: Build, tmp_path: Path) -> None:
    """All that a build reads but the live snapshot itself: the next build ends, with the items and figures of an undisturbed one."""
    first, pictures, undisturbed = nights
    for number, harms in enumerate([*MIXED, *EACH] if LONG else MIXED):
        root = Path(shutil.copytree(first, tmp_path / str(number)))
        assert harmed(root, harms), harms
        summary = build(pictures, *SETTINGS, root=root)
        assert items(summary) == items(undisturbed), harms
        assert summary["metrics"] == pytest.approx(undisturbed["metrics"], abs=1e-6), harms  # shards may be cut elsewhere
        agrees(root)
        shutil.rmtree(root)


DURING = [("/shards/", removed, "indexes/*/shards/*.faiss")]
WHENEVER = [
    (when, harm, left)
    for when in ("/split/", "/shards/", "/evaluations/", "current")
    for harm in (removed, cut)
    for left in ("embeddings/*/part-*", "datasets/*/split/*/items.parquet", "indexes/*/shards/*.faiss", "indexes/*/trained/*")
]


def test_what_goes_in_the_midst_of_a_build_ends_it_clearly_if_at_all(
    nights: tuple[Path, Path, dict[str, Any]], build: Build, tmp_path: Path
) -> None:
    """After a commit, files go that later stages read: the build makes them anew, or ends with an error of our own. What is live is whole,
    and the next build ends as an undisturbed one."""
    first, pictures, undisturbed = nights
    for number, (when, harm, left) in enumerate(WHENEVER if LONG else DURING):
        root = Path(shutil.copytree(first, tmp_path / str(number)))
        with at_commit(when, partial(harmed, root, [(harm, left)])) as hit:
            try:
                build(pictures, *SETTINGS, root=root)
            except IndexmillError as problem:
                assert problem.next_step, problem
        assert hit != [0], (when, left)
        snapshots = Snapshots(Root(root), "demo-images")
        snapshots.verify(snapshots.read_manifest())
        summary = build(pictures, *SETTINGS, root=root)
        assert (items(summary), summary["metrics"]) == (items(undisturbed), undisturbed["metrics"]), (when, harm, left)
        agrees(root)
        shutil.rmtree(root)


def test_a_damaged_catalog_is_made_anew_from_the_manifests_and_told(quick_build: Build, digits: Path, tmp_path: Path) -> None:
    """By the command `catalog`, and by a build in which nothing else is to be done."""
    root = tmp_path / "root"
    summary = quick_build(digits, *SETTINGS)
    whole = (root / "catalog.duckdb").read_bytes()
    for content in (whole[: len(whole) // 2], b"no database at all", b""):
        (root / "catalog.duckdb").write_bytes(content)
        run = CliRunner().invoke(app, ["catalog", "--root", str(root), "--json"])
        assert run.exit_code == 0, run.output
        assert summary["snapshot_id"] in run.stdout
        assert "the catalog was damaged and is made anew from the manifests: " in run.stderr or not content
    (root / "catalog.duckdb").write_bytes(whole[:5000])
    quick_build(digits, *SETTINGS)
    assert "damaged" not in CliRunner().invoke(app, ["catalog", "--root", str(root)]).stderr
