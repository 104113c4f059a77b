"""Who may read what lies under a root: its owner alone, unless INDEXMILL_UMASK says otherwise."""

from __future__ import annotations

import os
import re

from indexmill.storage.errors import InputError

UMASK_VARIABLE = "INDEXMILL_UMASK"
DEFAULT_UMASK = 0o077


def get_umask() -> int:
    """The permissions that nothing under the root gets. INDEXMILL_UMASK is read as the shell's `umask` reads it: 027 lets a group read.

    Raises InputError for what is no such number, or would keep the owner out.
    """
    told = os.environ.get(UMASK_VARIABLE)
    if told is None:
        return DEFAULT_UMASK
    if not re.fullmatch("0{0,2}[0-7]{2}", told):
        raise InputError(
            "the permissions for the root cannot be read", where=UMASK_VARIABLE,
            expected="077 (the owner alone), 027 (the group may read) or 022 (all may)", got=told,
            next_step=f"unset {UMASK_VARIABLE}, or export {UMASK_VARIABLE}=027",
        )  # fmt: skip
    return int(told, 8)


def apply_umask() -> None:
    """Let everything that this process and its children make from now on have these permissions, whichever library makes it."""
    os.umask(get_umask())
