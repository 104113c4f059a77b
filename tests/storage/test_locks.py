"""One builder at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from indexmill.storage.errors import BuildInProgress
from indexmill.storage.locks import lease

HOLD = (
    "import sys, time; from pathlib import Path; from indexmill.storage.locks import lease\n"
    "with lease(Path(sys.argv[1]), holder='the other build'):\n    print('held', flush=True); time.sleep(60)"
)


def test_a_second_holder_is_refused_by_name_until_the_first_is_killed(tmp_path: Path) -> None:
    """The kernel frees the lease with its process, so nothing has to be cleaned up by hand."""
    path = tmp_path / "lease"
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    with pytest.raises(BuildInProgress, match="the other build"), lease(path, holder="this"):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait()
    with lease(path, holder="this"):
        assert path.read_text() == "this"
