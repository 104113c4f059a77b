"""Shards: one side of the data in N FAISS files, each named by what it was made from, so that equal shards are made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import pyarrow as pa
from pydantic import ValidationError

from storage import tables
from storage.digests import json_digest, rows_digest
from storage.embeddings import vectors
from storage.errors import DamagedFile
from storage.records import EmbeddingSet, Shard, Side, TrainedIndex
from storage.root import Root
from tasks.indexes.files import read_index, write_index
from tasks.progress import Advance


def fill_shards(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, side: Side, count: int, advance: Advance
) -> tuple[tuple[Shard, ...], int]:
    """The side's items in `count` shards, by item id modulo count; empty shards are left out. Also: how many had to be built."""
    shards, built = [], 0
    for number in range(count):
        items, key = _key(root, embeddings, trained, side, number, count)
        if not items:
            continue
        shard = _pooled(root, name, key)
        if shard is None:
            index = fill(root, embeddings, trained, side=side, shard=(number, count))
            ref = write_index(index, root, pool(root, name, key, ".faiss"))
            shard = Shard(side=side, number=number, count=index.ntotal, key=key, index=ref)
            # Written last: it says that the file beside it is whole.
            root.write_record(pool(root, name, key, ".json"), shard)
            built += 1
        shards.append(shard)
        advance(items)
    return tuple(shards), built


def fill(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, *, side: Side, shard: tuple[int, int]) -> faiss.Index:
    """The trained index filled with one shard's vectors under their item ids, block by block."""
    index = read_index(root.file(trained.index), trained.index)
    with vectors(root, embeddings, side=side, shard=shard) as blocks:
        for ids, block in blocks:
            index.add_with_ids(block, ids)
    return index


def pool(root: Root, name: str, key: str, suffix: str) -> Path:
    """Where the shard of that key lies, and (suffix .json) its record."""
    return root.index(name) / "shards" / (key[:32] + suffix)


def pooled_paths(root: Root, name: str, shard: Shard) -> list[str]:
    """The pooled files of a shard, relative to the root."""
    return [pool(root, name, shard.key, suffix).relative_to(root.path).as_posix() for suffix in (".faiss", ".json")]


def _key(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, side: Side, number: int, count: int) -> tuple[int, str]:
    """(items, digest of the training and of the shard's ids and contents)."""
    sql = (
        f"SELECT item_id, content_digest FROM {tables.parquet(root.file(embeddings.items))} "
        f"WHERE side = '{side}' AND item_id % {count} = {number} ORDER BY item_id"
    )
    items = 0

    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[object, ...]]:
        nonlocal items
        for batch in batches:
            items += batch.num_rows
            yield from zip(*batch.to_pydict().values(), strict=True)

    with tables.query(sql, spill=root.tmp) as batches:
        rows = rows_digest(counted(batches))
    return items, json_digest([trained.digest, side, number, rows])


def _pooled(root: Root, name: str, key: str) -> Shard | None:
    """The shard of that key if its record and its file are there and whole."""
    try:
        shard = Shard.model_validate_json(pool(root, name, key, ".json").read_text(encoding="utf-8"))
        root.verified(shard.index)
    except (OSError, ValidationError, DamagedFile):
        return None
    return shard
