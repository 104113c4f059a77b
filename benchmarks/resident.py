"""Resident memory of a process and all that it started."""

from __future__ import annotations

from contextlib import suppress

import psutil


def resident(process: psutil.Process) -> int:
    """Bytes, now; what has just ended counts nothing."""
    total = 0
    with suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total
