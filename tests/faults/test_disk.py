"""A disk that is full before or during a build, and a root on a read-only disk.

Each runs in a mount namespace of its own. Two points by default, every commit of a build that encodes in `make soak`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from indexmill.storage.disk_errors import build_disk_error
from indexmill.storage.errors import RootUnusable
from tests.conftest import SETTINGS, FinishedBuild
from tests.faults.killing import HERE
from tests.faults.test_many_nights import write_noise

# Users other than root may mount in a user namespace. Nothing is skipped: where the kernel allows neither, the tests fail.
OWN_MOUNTS = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]


def run_with_own_mounts(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose mounts no other process sees."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([*OWN_MOUNTS, *command], env=environment, cwd=HERE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_a_full_disk_ends_the_build_and_damages_nothing(
    digits: Path, pictures: Path, finished_build: FinishedBuild, tmp_path: Path
) -> None:
    """Full before a build begins, or while it fills shards: the error says so, the live snapshot is intact, and with free space the next
    build ends like an undisturbed one."""
    shutil.rmtree(pictures / "9")
    if long := "INDEXMILL_SOAK" in os.environ:
        write_noise(pictures / "3" / "new.png", random.Random(1))
    (mount := tmp_path / "disk").mkdir()
    points = [] if long else [0, "/shards/"]
    task = {"mount": str(mount), "encoded": str(finished_build.root), "before": str(digits), "after": str(pictures), "settings": SETTINGS}
    done = run_with_own_mounts(sys.executable, str(HERE / "full_disk.py"), json.dumps(task | {"points": points}))
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(outcomes) > 30 if long else len(outcomes) == 2
    for outcome in outcomes:
        assert (outcome["live"], outcome["same"], outcome["left"]) == (True, True, []), outcome
        if "this build would not fit" not in outcome["error"]:
            assert outcome["kind"] in ("RootUnusable", ""), outcome  # after its last write a build needs no space
            assert "the disk is full" in outcome["error"] or outcome["error"] == "", outcome
    error = outcomes[0]["error"]
    assert "in the stage ingest" in error or "where:    /" in error
    assert "No space left on device; 0.0 of 268.4 MB free\n  next:     free some space and run the same command again" in error
    assert {outcome["kind"] for outcome in outcomes[:2]} == {"RootUnusable"}


READS = (
    ["catalog"], ["snapshots", "demo-images"], ["show", "demo-images"], ["verify", "demo-images"], ["history", "demo-images"],
    ["diff", "demo-images", "SNAPSHOT"], ["search", "demo-images", "--image", "PICTURE", "-k", "1"],
)  # fmt: skip
WRITES = (["build", "demo-images"], ["pin", "demo-images"], ["rollback", "demo-images"], ["gc"])


@pytest.mark.slow
def test_a_read_only_root_can_be_read_and_not_written(finished_build: FinishedBuild, digits: Path, tmp_path: Path) -> None:
    """All commands that only read work, and so does Python; a build is refused before it starts Prefect. The home directory stays empty."""
    summary, mount, home = finished_build.summary, tmp_path / "mount", tmp_path / "home"
    shutil.copytree(finished_build.root, tmp_path / "root")
    mount.mkdir()
    home.mkdir()
    picture = next(digits.rglob("*.png"))
    script = f"""
import json, os, sys, tempfile
os.environ["HOME"] = {str(home)!r}
os.environ["TMPDIR"] = {str(home)!r}
from indexmill.flows.environment import prepare_environment
from typer.testing import CliRunner
from indexmill.flows.cli.app import app
results = []
for command in json.loads(sys.argv[1]):
    run = CliRunner().invoke(app, [*command, "--root", {str(mount)!r}])
    results.append([run.exit_code, run.output, run.stderr])
from indexmill.serve import open_index
assert open_index({str(mount)!r}, "demo-images").search(images=[{str(picture)!r}], k=1).results[0][0].rank == 1
print(json.dumps(results))
"""
    names = {"SNAPSHOT": summary["snapshot_id"], "PICTURE": str(picture)}
    commands = [[names.get(word, word) for word in command] for command in (*READS, *WRITES)]
    mounts = f'mount --bind {tmp_path / "root"} {mount} && mount -o remount,bind,ro {mount} && exec "$@"'
    done = run_with_own_mounts("sh", "-c", mounts, "sh", sys.executable, "-c", script, json.dumps(commands))
    results = json.loads(done.stdout.splitlines()[-1])
    for (code, output, error), command in zip(results, commands, strict=True):
        if command in commands[: len(READS)]:
            assert code == 0, (command, error)
            assert summary["snapshot_id"] in output or command[0] == "diff", command
        else:
            assert code == 2, (command, output)
            assert "the root cannot be written\n" in error, command
            assert f"where:    {mount}" in error, command
    # Importing torchvision creates the empty cache folder of torch's compiler.
    assert {path.name for path in home.iterdir() if not path.name.startswith("torchinductor_")} <= {f"indexmill-{os.getuid()}"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_recognized_by_errno_and_by_message(number: int, tmp_path: Path) -> None:
    """Some libraries pass the errno on, some only its text, and some raise an error of their own because of it."""
    chained = ValueError("broken")
    chained.__cause__ = OSError(number, os.strerror(number))
    for error in (OSError(number, "any"), RuntimeError(f"IO Error: {os.strerror(number)} (async)"), chained):
        assert isinstance(build_disk_error(error, tmp_path), RootUnusable)
    for other in (OSError(errno.EIO, os.strerror(errno.EIO)), ValueError("broken"), PermissionError(errno.EACCES, "Permission denied")):
        assert build_disk_error(other, tmp_path) is None  # the root itself can be written
