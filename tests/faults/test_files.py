"""Files that are deleted, truncated or overwritten between builds or during one: they are made again, and nothing live is lost.

Some of them at once by default; each by itself with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.storage.errors import IndexmillError
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import SETTINGS, Build, FinishedBuild
from tests.faults.killing import at_commit, check_consistency, read_items

Damage = Callable[[Path], None]
LONG = "INDEXMILL_SOAK" in os.environ


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    """Truncate under a new inode: files that share the bytes by a hard link keep them."""
    replace(path, path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    """Change 64 bytes in the middle."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 0xFF for byte in content[middle : middle + 64])
    replace(path, bytes(content))


def replace(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


# What a build reads of earlier ones.
READ = (
    "embeddings/*/part-*", "image_checks/*/part-*", "datasets/*/cache/*", "datasets/*/ingested/*/items.parquet",
    "datasets/*/validated/*/items.parquet", "datasets/*/split/*/items.parquet", "indexes/*/shards/*.faiss", "indexes/*/trained/*",
    "indexes/*/evaluations/*/*", "encoders/*/*.json", "cache/*", "catalog.duckdb",
)  # fmt: skip
Damages = list[tuple[Damage, str]]
MIXED: list[Damages] = [[((overwrite, truncate)[number % 2], pattern) for number, pattern in enumerate(READ)]]
EACH: list[Damages] = [[(damage, pattern)] for damage in (remove, truncate, overwrite) for pattern in (*READ, "indexes/*/current")]


def damage_files(root: Path, damages: Damages) -> int:
    """Damage the files of these patterns. Returns their number."""
    files = [(damage, path) for damage, pattern in damages for path in root.glob(pattern) if path.is_file()]
    for damage, path in files:
        damage(path)
    return len(files)


@dataclass(frozen=True)
class SecondNight:
    """A root after one build, the images of the next build, and the summary of that one where nothing disturbs it."""

    root: Path
    pictures: Path
    undisturbed: dict[str, Any]


@pytest.fixture(scope="module")
def second_night(finished_build: FinishedBuild, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> SecondNight:
    """The digits without one label, in a root with all of them."""
    from indexmill.flows.build_index import build_index

    folder = tmp_path_factory.mktemp("second-night")
    pictures = Path(shutil.copytree(digits, folder / "pictures"))
    shutil.rmtree(pictures / "9")
    root = Path(shutil.copytree(finished_build.root, folder / "root"))
    return SecondNight(finished_build.root, pictures, build_index("demo-images", str(root), [f"dataset.path={pictures}", *SETTINGS]))


@pytest.mark.slow
def test_files_that_are_damaged_between_builds_are_made_again(second_night: SecondNight, build: Build, tmp_path: Path) -> None:
    """All that a build reads but the live snapshot: the next build ends with the items and metrics of an undisturbed one."""
    for number, damages in enumerate([*MIXED, *EACH] if LONG else MIXED):
        root = Path(shutil.copytree(second_night.root, tmp_path / str(number)))
        assert damage_files(root, damages), damages
        summary = build(second_night.pictures, *SETTINGS, root=root)
        assert read_items(summary) == read_items(second_night.undisturbed), damages
        # Items may be assigned to other shards.
        assert summary["metrics"] == pytest.approx(second_night.undisturbed["metrics"], abs=1e-6), damages
        check_consistency(root)
        shutil.rmtree(root)


DURING = [("/shards/", remove, "indexes/*/shards/*.faiss")]
WHENEVER = [
    (when, damage, pattern)
    for when in ("/split/", "/shards/", "/evaluations/", "current")
    for damage in (remove, truncate)
    for pattern in ("embeddings/*/part-*", "datasets/*/split/*/items.parquet", "indexes/*/shards/*.faiss", "indexes/*/trained/*")
]


@pytest.mark.slow
def test_files_that_disappear_during_a_build_end_it_with_a_clear_error_at_most(
    second_night: SecondNight, build: Build, tmp_path: Path
) -> None:
    """The build makes them again or ends with an IndexmillError. The live snapshot is intact, and the next build ends like an undisturbed
    one."""
    undisturbed = second_night.undisturbed
    for number, (when, damage, pattern) in enumerate(WHENEVER if LONG else DURING):
        root = Path(shutil.copytree(second_night.root, tmp_path / str(number)))
        with at_commit(when, partial(damage_files, root, [(damage, pattern)])) as counts:
            try:
                build(second_night.pictures, *SETTINGS, root=root)
            except IndexmillError as error:
                assert error.next_step, error
        assert counts != [0], (when, pattern)
        snapshots = Snapshots(Root(root), "demo-images")
        snapshots.verify(snapshots.read_manifest())
        summary = build(second_night.pictures, *SETTINGS, root=root)
        assert (read_items(summary), summary["metrics"]) == (read_items(undisturbed), undisturbed["metrics"]), (when, damage, pattern)
        check_consistency(root)
        shutil.rmtree(root)


def test_a_damaged_catalog_is_rebuilt_from_the_manifests_with_a_warning(
    next_build: Build, undisturbed: dict[str, Any], digits: Path, tmp_path: Path
) -> None:
    """By the command `catalog`, and by a build that has nothing else to do."""
    root = tmp_path / "root"
    sound = (root / "catalog.duckdb").read_bytes()
    for content in (sound[: len(sound) // 2], b"no database at all", b""):
        (root / "catalog.duckdb").write_bytes(content)
        run = CliRunner().invoke(app, ["catalog", "--root", str(root), "--json"])
        assert run.exit_code == 0, run.output
        assert undisturbed["snapshot_id"] in run.stdout
        assert "the catalog was damaged; rebuilding it from the manifests: " in run.stderr or not content
    (root / "catalog.duckdb").write_bytes(sound[:5000])
    next_build(digits)
    assert "damaged" not in CliRunner().invoke(app, ["catalog", "--root", str(root)]).stderr
