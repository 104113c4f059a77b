"""The pool: shards by key, kept from night to night, with what they hold."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from indexmill.storage.errors import DamagedFile
from indexmill.storage.index_records import Shard
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import FileRef, Side
from indexmill.storage.root import Root


def pooled(root: Root, name: str, key: str) -> Shard | None:
    """The shard of that key, if its record and its files are there and whole."""
    shard = recorded(root, name, key)
    return shard if shard and all(whole(root, ref) for ref in shard.files) else None


def recorded(root: Root, name: str, key: str) -> Shard | None:
    """The shard of that key as its record says, whatever has become of its files."""
    try:
        return Shard.model_validate_json(root.shard(name, key, "json").read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def whole(root: Root, ref: FileRef) -> Path | None:
    """The path of a file that is as recorded, else None."""
    try:
        return root.verified(ref)
    except DamagedFile:
        return None


def earlier(root: Root, name: str, live: Manifest | None, side: Side, shards: int | str) -> list[Shard]:
    """One side's shards of the live snapshot, for the next night to start from; none where the number of shards was set otherwise then."""
    if live is None or live.config["index"].get("shards") != shards:
        return []
    return [recorded(root, name, shard.key) or shard for shard in live.shards if shard.side == side]


def pooled_paths(root: Root, name: str, shard: Shard) -> list[str]:
    """The pooled files of a shard, relative to the root."""
    return [root.shard(name, shard.key, "json").relative_to(root.path).as_posix(), *(ref.path for ref in shard.files)]


def snapshot_names(shard: Shard, number: int) -> dict[str, FileRef]:
    """Name in a snapshot -> the shard's pooled file: `shard-00000.faiss`, `shard-00000.rows.parquet`, `shard-00000.vectors.npy`, …"""
    stem = f"shard-{number:05d}"
    files = {"faiss": shard.index, "rows.parquet": shard.rows, **shard.vectors}
    return {f"{stem}.{suffix}": ref for suffix, ref in files.items()}


def shard_in_snapshot(shard: Shard, number: int) -> Shard:
    """The shard with its files' names in a snapshot."""
    index, rows, *vectors = (ref.model_copy(update={"path": name}) for name, ref in snapshot_names(shard, number).items())
    return shard.model_copy(update={"index": index, "rows": rows, "vectors": dict(zip(shard.vectors, vectors, strict=True))})
