"""Rankings of the whole database: exact, in blocks of queries."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SCORES_AT_ONCE = 1 << 22  # scores in memory together: 16 MB, and 32 MB of what is sorted


def full_rankings(queries: np.ndarray, database: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rank every row of the database for every query by inner product; yield (which queries, rows int64 (n, database)), best first.

    queries, database: float32 (n, dim), in memory or memory-mapped. Equal scores stand by ascending row, so give rows in ascending order
    of item id. A block holds SCORES_AT_ONCE scores, or those of one query where the database is larger: 12 bytes a database vector.
    """
    step = max(1, SCORES_AT_ONCE // max(len(database), 1))
    for start in range(0, len(queries), step):
        block = slice(start, min(start + step, len(queries)))
        yield block, descending(queries[block] @ database.T)


def descending(scores: np.ndarray) -> np.ndarray:
    """The columns of each row, largest score first, equals by ascending column: int64 (n, m). scores: float32 (n, m), m < 2**32, no NaN.

    One sort of whole numbers (score above, column below) takes about half the time of a stable sort of scores.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0: they are equal
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (~rising).astype(np.uint64) << np.uint64(32) | np.arange(scores.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
