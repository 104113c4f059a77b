"""Merge all shards of a snapshot into one FAISS file for consumers that only have FAISS; item ids do not change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from faiss.contrib.ondisk import merge_ondisk

from indexmill.storage.atomic import commit
from indexmill.storage.errors import InputError
from indexmill.storage.records import FileRef
from indexmill.tasks.indexing.factory import find_ivf, unwrap_id_map
from indexmill.tasks.indexing.shard_store import read_index, save_index

BLOCK_ROWS = 8192


def merge_shards(
    shards: Sequence[tuple[Path, FileRef]], output: Path, *, max_memory: int, lists_path: Path, final_lists_path: Path | None = None
) -> tuple[int, bool]:
    """Merge the shards into one file after verifying their digests.

    Lists that take more than `max_memory` bytes are merged on disk, list by list. Codes that cannot be paged in (fast
    scan) and families without lists are merged in memory; a graph, which cannot be merged, is rebuilt from the vectors
    of its shards.

    Args:
        shards: the path and the reference of each index file.
        output: the file to write.
        max_memory: bytes.
        lists_path: the file for inverted lists that are merged on disk; `output` refers to it.
        final_lists_path: the path that `output` refers to instead, if that file will be moved there.

    Returns:
        The number of vectors, and whether the lists are in `lists_path`.

    Raises:
        InputError: FAISS cannot merge this family.
        DamagedFile: a shard differs from its reference.
    """
    first = read_index(*shards[0], mapped=True)
    on_disk = sum(ref.size for _, ref in shards) > max_memory and _is_pageable(first)
    merged = _merge_on_disk(shards, lists_path) if on_disk else _merge_in_memory(shards)
    if on_disk and final_lists_path is not None:
        ivf: Any = find_ivf(merged)
        lists: Any = faiss.downcast_InvertedLists(ivf.invlists)
        lists.filename = str(final_lists_path)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.part")
    try:
        save_index(merged, temporary)
        commit(temporary, output)
    finally:
        temporary.unlink(missing_ok=True)
    return int(merged.ntotal), on_disk


def _merge_in_memory(shards: Sequence[tuple[Path, FileRef]]) -> faiss.Index:
    merged = read_index(*shards[0])
    inner = unwrap_id_map(merged)
    for path, ref in shards[1:]:
        shard = read_index(path, ref)
        if isinstance(inner, faiss.IndexHNSW):
            _copy_vectors(merged, shard)
            continue
        try:
            merged.merge_from(shard, 0)
        except RuntimeError as error:
            raise InputError(
                "FAISS cannot merge shards of this family",
                got=f"{type(inner).__name__}: {str(error).strip()[-200:]}",
                next_step="build with index.shards: 1; the only shard is then the whole index",
            ) from None
    return merged


def _merge_on_disk(shards: Sequence[tuple[Path, FileRef]], lists_path: Path) -> faiss.Index:
    """Merge into an index whose lists are in a separate file, which the index refers to."""
    merged: Any = read_index(*shards[0], mapped=True)
    ivf: Any = find_ivf(merged)
    empty: Any = faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size)
    empty.this.disown()  # the index frees it
    ivf.replace_invlists(empty, True)
    merged.ntotal = ivf.ntotal = 0
    for path, ref in shards[1:]:
        read_index(path, ref, mapped=True)  # verifies the digest; FAISS opens the file again
    merge_ondisk(merged, [str(path) for path, _ in shards], str(lists_path))
    return merged


def _is_pageable(index: faiss.Index) -> bool:
    ivf: Any = find_ivf(index)
    return ivf is not None and not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.BlockInvertedLists)  # type: ignore[attr-defined]


def _copy_vectors(merged: Any, shard: Any) -> None:
    """Add the vectors of a graph's shard, reconstructed from its storage block by block."""
    ids = faiss.vector_to_array(shard.id_map)
    for start in range(0, len(ids), BLOCK_ROWS):
        count = min(BLOCK_ROWS, len(ids) - start)
        merged.add_with_ids(shard.index.reconstruct_n(start, count), np.ascontiguousarray(ids[start : start + count]))
