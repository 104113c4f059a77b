"""Exclude the query itself and the items of its duplicate group from rankings and from denominators."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

UNGROUPED = -1


def mask_own_results(queries: np.ndarray, groups: np.ndarray, found: np.ndarray, found_groups: np.ndarray) -> np.ndarray:
    """Which places of the rankings hold the query itself or an item of its duplicate group, bool (queries, depth).

    queries: item ids int64 (queries,); groups: their duplicate groups, UNGROUPED where there is none; found, found_groups: the same
    for the places of the rankings, int64 (queries, depth). It answers for judged pairs too, as rankings of depth 1.
    """
    same = (found_groups == groups[:, None]) & (groups[:, None] != UNGROUPED)
    return (same | (found == queries[:, None])) & (found >= 0)


def drop_excluded(places: np.ndarray, excluded: np.ndarray, empty: float = -1) -> np.ndarray:
    """The same rankings without the excluded places: later ones move up, `empty` fills the end; same shape and dtype.

    places (queries, depth): ids, scores or hits. Search deeper by the largest duplicate group where the last places matter.
    """
    order = np.argsort(excluded, axis=1, kind="stable")
    kept = ~np.take_along_axis(excluded, order, axis=1)
    return np.where(kept, np.take_along_axis(places, order, axis=1), np.asarray(empty, places.dtype))


def count_own_relevant(
    queries: np.ndarray, groups: np.ndarray, labels: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """How many database items with the query's label are the query itself or in its group: what `relevant` shrinks by, int64 (queries,).

    blocks: (item ids, groups, labels) of the database side, each (n,); they need not fit into memory together.
    """
    pairs, row = np.unique(np.stack([groups, labels], axis=1), axis=0, return_inverse=True)
    order = np.argsort(queries, kind="stable")
    in_group, itself = np.zeros(len(pairs), np.int64), np.zeros(len(queries), np.int64)
    for block_ids, block_groups, block_labels in blocks:
        grouped = block_groups != UNGROUPED
        in_group += _count_rows(pairs, np.stack([block_groups[grouped], block_labels[grouped]], axis=1))
        alone = block_ids[~grouped]
        itself[order] += np.searchsorted(np.sort(alone), queries[order], "right") - np.searchsorted(np.sort(alone), queries[order])
    return np.where(groups == UNGROUPED, itself, in_group[row.reshape(-1)])


def _count_rows(pairs: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How often each row of `pairs` (n, 2), distinct and sorted, stands among the rows of another (m, 2)."""
    seen, times = np.unique(among, axis=0, return_counts=True)
    both, row = np.unique(np.concatenate([pairs, seen]), axis=0, return_inverse=True)
    found = np.zeros(len(both), np.int64)
    found[row.reshape(-1)[len(pairs) :]] = times
    return found[row.reshape(-1)[: len(pairs)]]
