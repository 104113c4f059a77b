"""Digests and ids: what a thing is, computed from what it holds.

Contents (an image's bytes, a text) are named by BLAKE2b with 128 bits: short enough for a column of ten million rows, and two of a
billion contents meet with probability 1.5e-21. Files are named by SHA-256, which `sha256sum` checks without us.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def content_digest(content: bytes) -> str:
    """BLAKE2b-128 of an item's bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def item_id(key: str) -> int:
    """The positive int64 that stands for `key`: the first 63 bits of its BLAKE2b. Zero, which FAISS users read as a row, is skipped."""
    raw = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return (int.from_bytes(raw, "big") >> 1) or 1


def unit_interval(seed: int, what: str) -> float:
    """A number in [0, 1) drawn by a keyed hash: the same for the same seed and text on every machine, and of nothing else."""
    raw = hashlib.blake2b(what.encode(), digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(raw, "big") >> 11) / (1 << 53)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of a JSON-simple value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def rows_digest(rows: Iterable[tuple[object, ...]]) -> str:
    """SHA-256 over rows in their order, one JSON line each, so that no cell can run into its neighbour."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
