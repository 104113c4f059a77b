"""Resident memory of a process and its children."""

from __future__ import annotations

from contextlib import suppress

import psutil


def get_resident_bytes(process: psutil.Process) -> int:
    """Return the resident bytes now; a process that has just ended counts as 0."""
    total = 0
    with suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += member.memory_info().rss
    return total
