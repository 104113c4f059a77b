"""A lease has one holder at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexmill.storage.errors import BuildInProgress
from indexmill.storage.locks import lease

HOLDER_PROGRAM = (
    "import sys, time; from pathlib import Path; from indexmill.storage.locks import lease\n"
    "with lease(Path(sys.argv[1]), holder='the other build'):\n    print('held', flush=True); time.sleep(600)"
)


def test_a_lease_is_refused_with_its_holders_name_until_the_holder_is_killed(tmp_path: Path) -> None:
    """The kernel releases the lease with its process, so nothing needs manual cleanup."""
    path = tmp_path / "lease"
    child = subprocess.Popen([sys.executable, "-c", HOLDER_PROGRAM, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(BuildInProgress, match="the other build"), lease(path, holder="this"):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    with lease(path, holder="this"):
        assert path.read_text() == "this"
