"""Run `indexmill build`, and kill it with SIGKILL at a chosen commit of a file: a power cut at a chosen moment.

Arguments: before|after WHICH, then those of the command. WHICH is the number of the commit, from 1, or a text that its path
contains. With `count FILE` nothing is killed, and the number of commits is written to FILE.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from indexmill.storage import atomic

when, which = sys.argv[1:3]
commit, commit_if_absent = atomic.commit, atomic.commit_if_absent
commits = 0


def commit_or_die(temporary: Path, target: Path, commit: Callable[[Path, Path], Any] = commit) -> None:
    global commits
    commits += 1
    is_chosen = when != "count" and (str(commits) == which if which.isdigit() else which in str(target))
    if is_chosen and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(temporary, target)
    if is_chosen:
        os.kill(os.getpid(), signal.SIGKILL)


atomic.commit = commit_or_die  # before anything else binds it
atomic.commit_if_absent = partial(commit_or_die, commit=commit_if_absent)
sys.argv = ["indexmill", *sys.argv[3:]]

from indexmill.flows.cli.app import main  # noqa: E402

try:
    main()
finally:
    if when == "count":
        Path(which).write_text(str(commits))
