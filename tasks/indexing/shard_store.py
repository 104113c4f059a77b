"""Read, write and open shards in the shard pool and in snapshots; every file is verified by its digest before use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import faiss
from pydantic import ValidationError

from indexmill.storage.errors import DamagedFile
from indexmill.storage.index_records import SearchParams, Shard
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import FileRef, FrozenModel, Side
from indexmill.storage.root import Root, verify_file
from indexmill.tasks.indexing.chunk_search import ChunkMap, ChunkSearcher
from indexmill.tasks.indexing.reranking import VectorStore, open_store
from indexmill.tasks.indexing.searcher import Searcher

RecordT = TypeVar("RecordT", bound=FrozenModel)


def open_searcher(
    shards: Sequence[Shard],
    resolve_path: Callable[[FileRef], Path],
    metric: str,
    params: SearchParams,
    chunks: ChunkMap | None = None,
) -> Searcher:
    """Open the shards as one index.

    Without re-ranking, inverted lists stay on disk and are paged in as they are searched. With re-ranking, codes are
    read into memory, because their ids are replaced by row numbers, and the stored vectors are mapped.

    Args:
        shards: the shards of an index or a snapshot.
        resolve_path: maps a file reference to its path, in the pool or in a snapshot.
        metric: cosine, ip or l2.
        params: the search parameters.
        chunks: the items of the shards' chunks; the searcher then returns items.

    Raises:
        DamagedFile: a file differs from its reference.
    """
    stores = [_open_store(shard, resolve_path, metric) for shard in shards if shard.vectors]
    indexes: list[faiss.Index] = [read_index(resolve_path(shard.index), shard.index, mapped=not stores) for shard in shards]
    if chunks is not None:
        return ChunkSearcher(indexes, metric, params, stores=stores, chunks=chunks)
    return Searcher(indexes, metric, params, stores=stores)


def read_index(path: Path, ref: FileRef, *, mapped: bool = False) -> faiss.Index:
    """Read an index file after verifying its size and SHA-256: FAISS itself would read a damaged file and answer
    wrongly.

    Args:
        path: the file.
        ref: its recorded size and digest.
        mapped: leave inverted lists on disk, to be paged in as they are searched.

    Raises:
        DamagedFile: the file differs from its reference.
    """
    verify_file(path, ref)
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0)


def write_index(index: faiss.Index, root: Root, target: Path) -> FileRef:
    """Write an index file atomically."""
    with root.replace_atomically(target) as temporary:
        save_index(index, temporary)
    return root.make_ref(target)


def save_index(index: faiss.Index, path: Path) -> None:
    """Write an index file through Python: FAISS's own writer ignores a full disk, while a failed Python write raises
    its cause.
    """
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]  # defined by SWIG


def load_shard(root: Root, name: str, key: str) -> Shard | None:
    """Load the shard with this key from the pool; None unless its record and all its files are intact."""
    shard = read_record(root.fetch(root.shard_path(name, key, "json")), Shard)
    return shard if shard and all(verify_or_none(root, ref) for ref in shard.files) else None


def load_previous_shards(root: Root, name: str, live: Manifest | None, side: Side, shards: int | str) -> list[Shard]:
    """Load one side's shards of the live snapshot, from which the next build starts.

    None if `index.shards` has changed since.
    """
    if live is None or live.config["index"].get("shards") != shards:
        return []
    records = ((shard, root.fetch(root.shard_path(name, shard.key, "json"))) for shard in live.shards if shard.side == side)
    return [read_record(path, Shard) or shard for shard, path in records]


def read_record(path: Path, record_type: type[RecordT]) -> RecordT | None:
    """Read a record from the pool without checking its files; None if it is missing or invalid."""
    try:
        return record_type.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def verify_or_none(root: Root, ref: FileRef) -> Path | None:
    """Return the path of an intact file; None if it is missing or damaged."""
    try:
        return root.verify_file(ref)
    except DamagedFile:
        return None


def list_shard_paths(root: Root, name: str, shard: Shard) -> list[str]:
    """List the pooled files of a shard, relative to the root."""
    return [root.shard_path(name, shard.key, "json").relative_to(root.path).as_posix(), *(ref.path for ref in shard.files)]


def name_snapshot_files(shard: Shard, number: int) -> dict[str, FileRef]:
    """Map names in a snapshot to the shard's pooled files: `shard-00000.faiss`, `shard-00000.rows.parquet`,
    `shard-00000.vectors.npy`, …
    """
    stem = f"shard-{number:05d}"
    files = {"faiss": shard.index, "rows.parquet": shard.rows, **shard.vectors}
    return {f"{stem}.{suffix}": ref for suffix, ref in files.items()}


def with_snapshot_paths(shard: Shard, number: int) -> Shard:
    """Return the shard with its files' names in a snapshot."""
    index, rows, *vectors = (ref.model_copy(update={"path": name}) for name, ref in name_snapshot_files(shard, number).items())
    return shard.model_copy(update={"index": index, "rows": rows, "vectors": dict(zip(shard.vectors, vectors, strict=True))})


def _open_store(shard: Shard, resolve_path: Callable[[FileRef], Path], metric: str) -> VectorStore:
    files = {suffix: verify_file(resolve_path(ref), ref) for suffix, ref in shard.vectors.items()}
    return open_store(files["ids.npy"], files["vectors.npy"], metric, files.get("bounds.npy"))
