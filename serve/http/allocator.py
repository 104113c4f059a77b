"""Let the C library return memory that a replaced snapshot used."""

from __future__ import annotations

import ctypes

# Parameters of mallopt in <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Larger than what a search allocates, so that searches get their memory without a call of the kernel.
MMAP_BYTES = 4 << 20
TRIM_BYTES = 1 << 20


def return_freed_memory() -> bool:
    """Fix the sizes from which glibc returns freed memory to the system; return whether it could be done.

    By default both sizes grow with what is freed, to 32 and 64 MB. Threads of a swap then leave the memory of the old snapshot in
    glibc's arenas, of which there are eight per core, and the next snapshot is put into others. Other C libraries have no such function,
    and nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # macOS, musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))
