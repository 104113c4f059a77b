"""Opening the shards of an index to be searched, each file checked by digest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss

from indexmill.storage.index_records import SearchSetting, Shard
from indexmill.storage.records import FileRef
from indexmill.storage.root import verified
from indexmill.tasks.indexes.files import read_index
from indexmill.tasks.indexes.rerank import Store, open_store
from indexmill.tasks.indexes.searcher import Searcher


def open_searcher(shards: Sequence[Shard], place: Callable[[FileRef], Path], metric: str, setting: SearchSetting) -> Searcher:
    """A searcher over shards. place: where a shard's file lies, in the pool or in a snapshot.

    Without re-ranking, inverted lists stay on disk and are paged in as they are searched. With it, codes are read into memory, since
    their ids are exchanged for row numbers, and the vectors that re-rank are mapped.
    """
    stores = [_store(shard, place, metric) for shard in shards if shard.vectors]
    indexes: list[faiss.Index] = [read_index(place(shard.index), shard.index, mapped=not stores) for shard in shards]
    return Searcher(
        indexes, metric, stores=stores, spill=setting.spill, nprobe=setting.nprobe, ef_search=setting.ef_search,
        candidates=setting.candidates,
    )  # fmt: skip


def _store(shard: Shard, place: Callable[[FileRef], Path], metric: str) -> Store:
    files = {suffix: verified(place(ref), ref) for suffix, ref in shard.vectors.items()}
    return open_store(files["ids.npy"], files["vectors.npy"], metric, files.get("bounds.npy"))
