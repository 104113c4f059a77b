"""Telling that memory ran out."""

from __future__ import annotations

# By torch's own allocators, oneDNN (which says no more than this when its scratch memory does not fit), C++, the kernel, and the GPU's
# libraries. A batch of one that still fails raises what it was, so a fault that only sounds like these is not hidden.
SAID = (
    "can't allocate memory", "not enough memory", "could not create a primitive", "could not create a memory",
    "could not execute a primitive", "bad_alloc", "Cannot allocate memory", "STATUS_ALLOC_FAILED",
)  # fmt: skip


def out_of_memory(problem: Exception) -> bool:
    """Python's, CUDA's (torch.OutOfMemoryError) and the CPU libraries' ways of saying that memory ran out."""
    return (
        isinstance(problem, MemoryError)
        or type(problem).__name__ == "OutOfMemoryError"
        or (isinstance(problem, RuntimeError) and any(words in str(problem) for words in SAID))
    )
