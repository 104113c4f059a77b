"""Nights on which pictures come, change, go and break, and builds die: in the end everything agrees, item by item.

Two nights in the usual run; thirty with INDEXMILL_SOAK set (`make soak`).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

from PIL import Image

from tests.conftest import Build
from tests.faults.killing import SETTINGS, agrees, killed

ALL_MAY_FAIL = "validate.max_reject_fraction=1"  # broken pictures only grow in number
NIGHTS = 30 if "INDEXMILL_SOAK" in os.environ else 2


def changed(pictures: Path, chance: random.Random) -> None:
    """Some pictures come, some get other pixels, some go, one breaks."""
    files = sorted(pictures.rglob("*.png"))
    for path in chance.sample(files, 3):
        path.unlink()
    left = sorted(set(files) - {path for path in files if not path.exists()})
    for path in chance.sample(left, 3):
        noise(path, chance)
    for number in range(4):
        noise(pictures / str(chance.randrange(10)) / f"new-{chance.randrange(10**9)}-{number}.png", chance)
    chance.choice(left).write_bytes(b"no picture any more")


def noise(path: Path, chance: random.Random) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.frombytes("L", (32, 32), chance.randbytes(1024)).save(path)


def test_after_many_nights_everything_agrees(build: Build, pictures: Path, tmp_path: Path, server: str) -> None:
    """Every other night the build is killed at a commit of its first half and run again. What is served is what lies in the folder."""
    chance, root = random.Random(7), tmp_path / "root"
    build(pictures, *SETTINGS, ALL_MAY_FAIL)
    for night in range(NIGHTS):
        changed(pictures, chance)
        if night % 2:
            killed("after", str(chance.randrange(2, 8)), root, pictures, ALL_MAY_FAIL)
        summary = build(pictures, *SETTINGS, ALL_MAY_FAIL)
        live = agrees(root)
        files = {path.relative_to(pictures).as_posix(): path for path in pictures.rglob("*.png")}
        broken = {key for key, path in files.items() if path.read_bytes() == b"no picture any more"}
        assert (live.snapshot_id, live.items, live.rejected) == (summary["snapshot_id"], len(files) - len(broken), len(broken)), night
