"""`indexmill build` that kills itself with SIGKILL just before or after the first commit of a file whose path holds a given text.

Arguments: before|after TEXT, then the command's own. It stands in for a power cut at a chosen instant.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from storage import atomic

when, text = sys.argv[1:3]
commit = atomic.commit


def deadly(temporary: Path, target: Path) -> None:
    hit = text in str(target)
    if hit and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(temporary, target)
    if hit:
        os.kill(os.getpid(), signal.SIGKILL)


atomic.commit = deadly  # before anything else binds it
sys.argv = ["indexmill", *sys.argv[3:]]

from flows.cli import main  # noqa: E402

main()
