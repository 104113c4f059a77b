"""Run `indexmill build`, and kill it with SIGKILL at a chosen commit of a file: a power cut at a chosen moment.

Arguments: before|after WHICH, then those of the command. WHICH is the number of the commit, from 1, or a text that its path
contains. With `count FILE` nothing is killed, and the number of commits is written to FILE. With the root in an object store,
commits are its writes: every object that is written, replaced or deleted, except leases and other signs of life.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexmill.storage import atomic
from indexmill.storage.object_client import ObjectClient

when, which = sys.argv[1:3]
SIGN_OF_LIFE = re.compile(r"leases/|probe/|.*/readers/")
commits = 0


def kill_at(commit: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function whose second argument is what is committed."""

    def commit_or_die(first: Any, target: Path | str, *rest: Any) -> Any:
        global commits
        if SIGN_OF_LIFE.match(str(target)):
            return commit(first, target, *rest)
        commits += 1
        is_chosen = when != "count" and (str(commits) == which if which.isdigit() else which in str(target))
        if is_chosen and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = commit(first, target, *rest)
        if is_chosen:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return commit_or_die


if any(argument.startswith("s3://") for argument in sys.argv):
    for name in ("put", "put_file", "create", "swap", "delete"):
        setattr(ObjectClient, name, kill_at(getattr(ObjectClient, name)))
else:
    atomic.commit = kill_at(atomic.commit)  # before anything else binds them
    atomic.commit_if_absent = kill_at(atomic.commit_if_absent)
sys.argv = ["indexmill", *sys.argv[3:]]

from indexmill.flows.cli.app import main  # noqa: E402

try:
    main()
finally:
    if when == "count":
        Path(which).write_text(str(commits))
