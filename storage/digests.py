"""Digests and ids, computed from contents.

Contents (an image's bytes, a text) have 128-bit BLAKE2b digests: short enough for a column of ten million rows, with a
collision probability of 1.5e-21 among a billion contents. Files have SHA-256 digests, which `sha256sum` can check.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def content_digest(content: bytes) -> str:
    """Return the 128-bit BLAKE2b of an item's bytes as 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def read_content_digest(folder: Path, name: str | None) -> str | None:
    """Return the content digest of a file in a folder; None for no name, and for a file that cannot be read.

    A pipe or a device is no file: reading it may never end.
    """
    if not name or not os.path.isfile(folder / name):  # noqa: PTH113 (pathlib's raises for a name that is too long)
        return None
    try:
        return content_digest((folder / name).read_bytes())
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None


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
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def rows_digest(rows: Iterable[tuple[object, ...]]) -> str:
    """Return the SHA-256 of the rows in order, one JSON line per row, so that cell boundaries count."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
