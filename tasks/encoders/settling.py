"""Which precision `auto` means on this device: the fastest, while it gives the vectors of float32 on the user's own items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from indexmill.storage import tables
from indexmill.storage.experience import Experience, PrecisionCheck
from indexmill.storage.records import Precision
from indexmill.storage.root import Root
from indexmill.tasks.encoders.jobs import Compared

SAMPLE = 256  # items that are encoded twice to compare
AGAIN = 10 * SAMPLE  # so many new items are worth another look

Compare = Callable[[Path], Compared]


def settle(root: Root, items: Path, known: Experience, missing: Callable[[Precision], int], compare: Compare) -> Experience:
    """The experience with its precision settled.

    What is known holds, unless it is a fast precision and many items are new: then these are checked too. A precision that failed once
    is not tried again. missing: how many contents lack a vector of that precision. compare: encodes the sample (a table) both ways.
    """
    trusted = known.check is None or not known.check.holds
    if known.precision is not None and (trusted or missing(known.precision) < AGAIN):
        return known
    with root.scratch.staging() as staging:
        return _checked(known, compare(_sample(root, items, staging / "sample.parquet")))


def _sample(root: Root, items: Path, target: Path) -> Path:
    """The contents with the smallest hashes, so the same ones for the same items."""
    distinct = f"SELECT DISTINCT ON (content_digest) item_id, content_digest, text, path FROM {tables.parquet(items)} ORDER BY item_id"
    tables.copy(f"SELECT * FROM ({distinct}) ORDER BY md5(content_digest) LIMIT {SAMPLE}", target, spill=root.tmp)
    return target


def _checked(known: Experience, found: Compared) -> Experience:
    if found.tried == "float32":
        return known.model_copy(update={"precision": "float32"})
    check = PrecisionCheck.model_validate(found._asdict())
    return known.model_copy(update={"precision": found.tried if check.holds else "float32", "check": check})
