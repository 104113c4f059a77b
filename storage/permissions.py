"""File permissions under a root: only the owner can read it, unless INDEXMILL_UMASK says otherwise."""

from __future__ import annotations

import os
import re

from indexmill.storage.errors import InputError

UMASK_VARIABLE = "INDEXMILL_UMASK"
DEFAULT_UMASK = 0o077


def get_umask() -> int:
    """Return the umask for files under the root: INDEXMILL_UMASK in octal as for the shell's `umask`, 077 by default.

    Raises:
        InputError: when INDEXMILL_UMASK is not octal or denies the owner access.
    """
    value = os.environ.get(UMASK_VARIABLE)
    if value is None:
        return DEFAULT_UMASK
    if not re.fullmatch("0{0,2}[0-7]{2}", value):
        raise InputError(
            "the umask for the root is not valid",
            where=UMASK_VARIABLE,
            expected="077 (only the owner can read), 027 (the group can) or 022 (everybody can)",
            got=value,
            next_step=f"unset {UMASK_VARIABLE}, or export {UMASK_VARIABLE}=027",
        )
    return int(value, 8)


def apply_umask() -> None:
    """Set the umask of this process, and so of its children, for files that any library creates."""
    os.umask(get_umask())
