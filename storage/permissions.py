"""Who may read what lies under a root: its owner alone, unless INDEXMILL_UMASK says otherwise."""

from __future__ import annotations

import os
import re

from indexmill.storage.errors import InputError

VARIABLE = "INDEXMILL_UMASK"
PRIVATE = 0o077


def mask() -> int:
    """The permissions that nothing under the root gets. INDEXMILL_UMASK is read as the shell's `umask` reads it: 027 lets a group read.

    Raises InputError for what is no such number, or would keep the owner out.
    """
    told = os.environ.get(VARIABLE)
    if told is None:
        return PRIVATE
    if not re.fullmatch("0{0,2}[0-7]{2}", told):
        raise InputError(
            "the permissions for the root cannot be read", where=VARIABLE,
            expected="077 (the owner alone), 027 (the group may read) or 022 (all may)", got=told,
            next_step=f"unset {VARIABLE}, or export {VARIABLE}=027",
        )  # fmt: skip
    return int(told, 8)


def keep_private() -> None:
    """Let everything that this process and its children make from now on have these permissions, whichever library makes it."""
    os.umask(mask())
