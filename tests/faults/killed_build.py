"""`indexmill build` that kills itself with SIGKILL at a chosen commit of a file: a power cut at a chosen instant.

Arguments: before|after WHICH, then the command's own. WHICH is the number of the commit, from 1, or a text that its path holds. With
count FILE nothing is killed, and the number of commits is written to FILE.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from indexmill.storage import atomic

when, which = sys.argv[1:3]
commit = atomic.commit
done = 0


def deadly(temporary: Path, target: Path) -> None:
    global done
    done += 1
    hit = when != "count" and (str(done) == which if which.isdigit() else which in str(target))
    if hit and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(temporary, target)
    if hit:
        os.kill(os.getpid(), signal.SIGKILL)


atomic.commit = deadly  # before anything else binds it
sys.argv = ["indexmill", *sys.argv[3:]]

from indexmill.flows.cli.app import main  # noqa: E402

try:
    main()
finally:
    if when == "count":
        Path(which).write_text(str(done))
