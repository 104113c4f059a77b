"""Exclude the query itself and the items of its duplicate group from rankings and from denominators."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

UNGROUPED = -1  # the group of an item that has no duplicates


def mask_own_results(queries: np.ndarray, groups: np.ndarray, retrieved: np.ndarray, retrieved_groups: np.ndarray) -> np.ndarray:
    """Mark the ranks that hold the query itself or an item of its duplicate group.

    Judged pairs are passed as rankings of depth 1.

    Args:
        queries: item ids int64 (queries,).
        groups: their duplicate groups, int64 (queries,), UNGROUPED without one.
        retrieved: item ids int64 (queries, depth), -1 at empty ranks.
        retrieved_groups: their duplicate groups, int64 (queries, depth).

    Returns:
        bool (queries, depth).
    """
    in_group = (retrieved_groups == groups[:, None]) & (groups[:, None] != UNGROUPED)
    return (in_group | (retrieved == queries[:, None])) & (retrieved >= 0)


def drop_excluded(rankings: np.ndarray, is_excluded: np.ndarray, empty: float = -1) -> np.ndarray:
    """Remove the excluded ranks: later ones move up, and `empty` fills the end.

    Search deeper by the size of the largest duplicate group if the last ranks matter.

    Args:
        rankings: ids, scores or hits (queries, depth).
        is_excluded: bool (queries, depth).
        empty: the value of empty ranks.

    Returns:
        The rankings, same shape and dtype.
    """
    order = np.argsort(is_excluded, axis=1, kind="stable")
    is_kept = ~np.take_along_axis(is_excluded, order, axis=1)
    return np.where(is_kept, np.take_along_axis(rankings, order, axis=1), np.asarray(empty, rankings.dtype))


def count_own_relevant(
    queries: np.ndarray, groups: np.ndarray, labels: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Count the database items with the query's label that are the query itself or in its duplicate group.

    Args:
        queries: item ids int64 (queries,).
        groups: their duplicate groups, int64 (queries,).
        labels: their label codes, int (queries,).
        blocks: (item ids, groups, labels) of the database, each (n,), one block in memory at a time.

    Returns:
        int64 (queries,): how many relevant items the exclusion takes away.
    """
    pairs, row = np.unique(np.stack([groups, labels], axis=1), axis=0, return_inverse=True)
    order = np.argsort(queries, kind="stable")
    group_counts, self_counts = np.zeros(len(pairs), np.int64), np.zeros(len(queries), np.int64)
    for block_ids, block_groups, block_labels in blocks:
        is_grouped = block_groups != UNGROUPED
        group_counts += _count_rows(pairs, np.stack([block_groups[is_grouped], block_labels[is_grouped]], axis=1))
        ungrouped_ids = np.sort(block_ids[~is_grouped])
        self_counts[order] += np.searchsorted(ungrouped_ids, queries[order], "right") - np.searchsorted(ungrouped_ids, queries[order])
    return np.where(groups == UNGROUPED, self_counts, group_counts[row.reshape(-1)])


def _count_rows(pairs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Count how often each of `pairs` (n, 2), distinct and sorted, occurs among `rows` (m, 2)."""
    distinct, times = np.unique(rows, axis=0, return_counts=True)
    union, position = np.unique(np.concatenate([pairs, distinct]), axis=0, return_inverse=True)
    counts = np.zeros(len(union), np.int64)
    counts[position.reshape(-1)[len(pairs) :]] = times
    return counts[position.reshape(-1)[: len(pairs)]]
