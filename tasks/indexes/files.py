"""FAISS files that are whole and checked: written through Python so that a full disk is reported, read only after their digest."""

from __future__ import annotations

from pathlib import Path

import faiss

from indexmill.storage.records import FileRef
from indexmill.storage.root import Root, verified


def write_index(index: faiss.Index, root: Root, target: Path) -> FileRef:
    """Write an index atomically."""
    with root.replacing(target) as temporary:
        save(index, temporary)
    return root.ref(target)


def save(index: faiss.Index, path: Path) -> None:
    """Write an index through Python: FAISS's own writer ignores a full disk, while a failing Python write ends it with the cause."""
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]  # made by SWIG


def read_index(path: Path, ref: FileRef, *, mapped: bool = False) -> faiss.Index:
    """Read an index whose size and SHA-256 are as recorded, else raise DamagedFile: FAISS itself would answer wrongly in silence.

    mapped: leave inverted lists on disk, to be paged in as they are searched.
    """
    verified(path, ref)
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0)
