"""Read, write and open shards in the shard pool and in snapshots; every file is verified by its digest before use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
from pydantic import ValidationError

from indexmill.storage.errors import DamagedFile
from indexmill.storage.index_records import SearchParams, Shard
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import FileRef, Side
from indexmill.storage.root import Root, verify_file
from indexmill.tasks.indexing.reranking import VectorStore, open_store
from indexmill.tasks.indexing.searcher import Searcher


def write_index(index: faiss.Index, root: Root, target: Path) -> FileRef:
    """Write an index atomically."""
    with root.replace_atomically(target) as temporary:
        save(index, temporary)
    return root.make_ref(target)


def save(index: faiss.Index, path: Path) -> None:
    """Write an index through Python: FAISS's own writer ignores a full disk, while a failing Python write ends it with the cause."""
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]  # made by SWIG


def read_index(path: Path, ref: FileRef, *, mapped: bool = False) -> faiss.Index:
    """Read an index whose size and SHA-256 are as recorded, else raise DamagedFile: FAISS itself would answer wrongly in silence.

    mapped: leave inverted lists on disk, to be paged in as they are searched.
    """
    verify_file(path, ref)
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if mapped else 0)


def load_shard(root: Root, name: str, key: str) -> Shard | None:
    """The shard of that key, if its record and its files are there and whole."""
    shard = read_shard_record(root, name, key)
    return shard if shard and all(verify_or_none(root, ref) for ref in shard.files) else None


def read_shard_record(root: Root, name: str, key: str) -> Shard | None:
    """The shard of that key as its record says, whatever has become of its files."""
    try:
        return Shard.model_validate_json(root.shard_path(name, key, "json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def verify_or_none(root: Root, ref: FileRef) -> Path | None:
    """The path of a file that is as recorded, else None."""
    try:
        return root.verify_file(ref)
    except DamagedFile:
        return None


def load_previous_shards(root: Root, name: str, live: Manifest | None, side: Side, shards: int | str) -> list[Shard]:
    """One side's shards of the live snapshot, for the next night to start from; none where the number of shards was set otherwise then."""
    if live is None or live.config["index"].get("shards") != shards:
        return []
    return [read_shard_record(root, name, shard.key) or shard for shard in live.shards if shard.side == side]


def list_shard_paths(root: Root, name: str, shard: Shard) -> list[str]:
    """The pooled files of a shard, relative to the root."""
    return [root.shard_path(name, shard.key, "json").relative_to(root.path).as_posix(), *(ref.path for ref in shard.files)]


def name_snapshot_files(shard: Shard, number: int) -> dict[str, FileRef]:
    """Name in a snapshot -> the shard's pooled file: `shard-00000.faiss`, `shard-00000.rows.parquet`, `shard-00000.vectors.npy`, …"""
    stem = f"shard-{number:05d}"
    files = {"faiss": shard.index, "rows.parquet": shard.rows, **shard.vectors}
    return {f"{stem}.{suffix}": ref for suffix, ref in files.items()}


def with_snapshot_paths(shard: Shard, number: int) -> Shard:
    """The shard with its files' names in a snapshot."""
    index, rows, *vectors = (ref.model_copy(update={"path": name}) for name, ref in name_snapshot_files(shard, number).items())
    return shard.model_copy(update={"index": index, "rows": rows, "vectors": dict(zip(shard.vectors, vectors, strict=True))})


def open_searcher(shards: Sequence[Shard], resolve_path: Callable[[FileRef], Path], metric: str, params: SearchParams) -> Searcher:
    """A searcher over shards. place: where a shard's file lies, in the pool or in a snapshot.

    Without re-ranking, inverted lists stay on disk and are paged in as they are searched. With it, codes are read into memory, since
    their ids are exchanged for row numbers, and the vectors that re-rank are mapped.
    """
    stores = [_open_store(shard, resolve_path, metric) for shard in shards if shard.vectors]
    indexes: list[faiss.Index] = [read_index(resolve_path(shard.index), shard.index, mapped=not stores) for shard in shards]
    return Searcher(
        indexes, metric, stores=stores, spill=params.spill, nprobe=params.nprobe, ef_search=params.ef_search,
        rerank_candidates=params.rerank_candidates,
    )  # fmt: skip


def _open_store(shard: Shard, resolve_path: Callable[[FileRef], Path], metric: str) -> VectorStore:
    files = {suffix: verify_file(resolve_path(ref), ref) for suffix, ref in shard.vectors.items()}
    return open_store(files["ids.npy"], files["vectors.npy"], metric, files.get("bounds.npy"))
