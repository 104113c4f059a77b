"""Many builds between which images are added, changed, removed and damaged, and builds that die: everything stays consistent.

Two nights by default; thirty with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import SETTINGS, Build
from tests.faults.killing import check_consistency, run_killed

ALL_MAY_FAIL = "validate.max_reject_fraction=1"  # the number of damaged images only grows
DAMAGED = b"not an image"
NIGHTS = 30 if "INDEXMILL_SOAK" in os.environ else 2


def change_images(pictures: Path, chance: random.Random) -> None:
    """Remove three images, change three, add four, and damage one."""
    files = sorted(pictures.rglob("*.png"))
    for path in chance.sample(files, 3):
        path.unlink()
    remaining = sorted(set(files) - {path for path in files if not path.exists()})
    for path in chance.sample(remaining, 3):
        write_noise(path, chance)
    for number in range(4):
        write_noise(pictures / str(chance.randrange(10)) / f"new-{chance.randrange(10**9)}-{number}.png", chance)
    chance.choice(remaining).write_bytes(DAMAGED)


def write_noise(path: Path, chance: random.Random) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.frombytes("L", (32, 32), chance.randbytes(1024)).save(path)


@pytest.mark.slow
def test_after_many_nights_everything_is_consistent(quick_build: Build, pictures: Path, tmp_path: Path, server: str) -> None:
    """Every other night the build is killed at a commit of its first half and run again. The index holds what is in the folder."""
    chance, root = random.Random(7), tmp_path / "root"
    quick_build(pictures, *SETTINGS, ALL_MAY_FAIL)
    for night in range(NIGHTS):
        change_images(pictures, chance)
        if night % 2:
            run_killed("after", str(chance.randrange(2, 8)), root, pictures, ALL_MAY_FAIL)
        summary = quick_build(pictures, *SETTINGS, ALL_MAY_FAIL)
        manifest = check_consistency(root)
        files = {path.relative_to(pictures).as_posix(): path for path in pictures.rglob("*.png")}
        damaged = {key for key, path in files.items() if path.read_bytes() == DAMAGED}
        counts = (manifest.snapshot_id, manifest.items, manifest.rejected)
        assert counts == (summary["snapshot_id"], len(files) - len(damaged), len(damaged)), night
