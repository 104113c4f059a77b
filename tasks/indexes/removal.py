"""Removing items from an index so that others can be added afterwards."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from indexmill.tasks.indexes.factory import ivf_of


def remove(index: faiss.Index, ids: np.ndarray) -> int:
    """Remove every vector with one of these ids (int64) from an index with lists; the number removed."""
    removed = int(index.remove_ids(ids))  # type: ignore[arg-type]  # FAISS takes arrays too
    ivf = ivf_of(index)
    if ivf is not None and ivf.invlists is not None:
        _clear_tails(faiss.downcast_InvertedLists(ivf.invlists))
    return removed


def _clear_tails(lists: Any) -> None:
    """Zero the free places of each list's last block, where lists keep their codes in blocks.

    Fast-scan lists do, 32 codes a block, and adding sets bits without clearing those that are there: after a removal FAISS 1.15 leaves
    old codes behind the end of a list, and what is added next would be a mixture of two vectors.
    """
    if not isinstance(lists, faiss.BlockInvertedLists):  # type: ignore[attr-defined]
        return
    packer = lists.packer
    nothing = np.zeros(packer.code_size, np.uint8)
    for number in range(lists.nlist):
        full, used = divmod(lists.list_size(number), packer.nvec)
        if used:
            blocks = faiss.rev_swig_ptr(lists.get_codes(number), (full + 1) * packer.block_size).reshape(full + 1, packer.block_size)
            for place in range(used, packer.nvec):
                packer.pack_1(nothing, place, blocks[-1:])
