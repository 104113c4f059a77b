"""Telling that memory ran out."""

from __future__ import annotations


def out_of_memory(problem: Exception) -> bool:
    """Python's, CUDA's (torch.OutOfMemoryError) and the CPU allocator's way of saying that memory ran out."""
    return (
        isinstance(problem, MemoryError)
        or type(problem).__name__ == "OutOfMemoryError"
        or (isinstance(problem, RuntimeError) and "can't allocate memory" in str(problem))
    )
