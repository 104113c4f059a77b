"""Digests and ids, computed from contents.

Contents (an image's bytes, a text) have 128-bit BLAKE2b digests: short enough for a column of ten million rows, with a
collision probability of 1.5e-21 among a billion contents. Files have SHA-256 digests, which `sha256sum` can check.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A file that was written a moment ago may be written again within one tick of the file system's clock.
MTIME_MARGIN_NS = 50_000_000
_known_digests: dict[tuple[int, ...], str] | None = None


def content_digest(content: bytes) -> str:
    """Return the 128-bit BLAKE2b of an item's bytes as 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def item_id(key: str) -> int:
    """Return the id of the item `key`: the first 63 bits of its BLAKE2b as a positive int64, never 0."""
    raw = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return (int.from_bytes(raw, "big") >> 1) or 1


def query_id(set_name: str, key: str) -> int:
    """Return the id of the query `key` of a set. It differs from any item's, even one with the same key: query ids are often ordinals."""
    return item_id(f"query\0{set_name}\0{key}")


def unit_interval(seed: int, key: str) -> float:
    """Draw a number in [0, 1) with a keyed hash. It depends on `seed` and `key` alone, on every machine."""
    raw = hashlib.blake2b(key.encode(), digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(raw, "big") >> 11) / (1 << 53)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        known, status = _known_digests, os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if known is not None and key in known:
            return known[key]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if known is not None and os.fstat(file.fileno()).st_mtime_ns == status.st_mtime_ns < time.time_ns() - MTIME_MARGIN_NS:
            known[key] = digest
        return digest


@contextmanager
def digesting_files_once() -> Iterator[None]:
    """Make `file_digest` remember what it has read until the block ends. A file with another size or modification time is read again.

    For one run: the stages of a build verify the same files one after the other. Not for a process that runs for days.
    """
    global _known_digests
    previous, _known_digests = _known_digests, {}
    try:
        yield
    finally:
        _known_digests = previous


def forget_file_digests() -> None:
    """Read every file again from now on: one has been found to be damaged."""
    if _known_digests is not None:
        _known_digests.clear()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def rows_digest(rows: Iterable[tuple[object, ...]]) -> str:
    """Return the SHA-256 of the rows in order, one JSON line per row, so that cell boundaries count."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
