"""Find and remove what no retained snapshot needs.

The collector holds the root exclusively (`Root.hold_exclusive`): no build runs meanwhile, and readers of snapshots are not disturbed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.part_folder import PartFolder
from indexmill.storage.retention import apply_retention, find_expired_snapshots, find_unreferenced_files
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

SECONDS_PER_DAY = 86_400
STAGE_FOLDERS_TO_KEEP = 2  # the newest of each stage of a data set: the last night's and the one before
GarbageKind = Literal["snapshot", "pooled file", "vectors", "dataset", "remembered stage"]


@dataclass(frozen=True)
class Garbage:
    """Something that nothing needs. where: relative to the root; rows: vectors, for those; bytes: on disk, a share for vectors."""

    kind: GarbageKind
    where: str
    rows: int | None
    bytes: int


def collect_garbage(root: Root, *, days: float = 1, dry_run: bool = False) -> list[Garbage]:
    """Remove what no kept snapshot needs, unless it is younger than `days`; with `dry_run` only say what would be removed.

    Snapshots go by the retention of their index's live config; vectors when no snapshot that stays holds their content; folders of a data
    set but the newest of each stage; remembered stages whose files are gone. Shards share files with snapshots, so their bytes may be free
    only when both are gone.
    """
    indexes = [Snapshots(root, folder.name) for folder in sorted((root.path / "indexes").glob("*"))]
    found = [one for snapshots in indexes for one in _collect_snapshots(snapshots, dry_run=dry_run)]
    going = {Path(one.where).name for one in found if one.kind == "snapshot"}
    before = time.time() - days * SECONDS_PER_DAY
    for folder in sorted((root.path / "embeddings").glob("*")):
        tables_of_store = [path for snapshots in indexes for path in _list_tables(snapshots, folder.name, going)]
        found += _collect_vectors(root, folder, tables_of_store, before, dry_run=dry_run)
    live = {digest[:16] for snapshots in indexes if (manifest := snapshots.read_live_manifest()) for digest in manifest.datasets.values()}
    found += _collect_dataset_folders(root, before, live, dry_run=dry_run)
    return [*found, *_collect_cached_stages(root, {one.where for one in found}, dry_run=dry_run)]


def _collect_snapshots(snapshots: Snapshots, *, dry_run: bool) -> list[Garbage]:
    root, live = snapshots.root, snapshots.read_live_manifest()
    if live is None:
        return []
    rules = live.config["publish"]
    going = find_expired_snapshots(snapshots, rules["keep"], rules.get("keep_days", 0))
    sizes = {snapshot_id: _get_folder_size(snapshots.get_path(snapshot_id)) for snapshot_id in going}
    pooled = {path: path.stat().st_size for path in find_unreferenced_files(snapshots, frozenset(going))}
    if not dry_run:
        going = apply_retention(snapshots, rules["keep"], rules.get("keep_days", 0))
        pooled = {path: size for path, size in pooled.items() if not path.exists()}
    garbage = [Garbage("snapshot", _get_relative_path(root, snapshots.get_path(one)), None, sizes[one]) for one in going]
    return garbage + [Garbage("pooled file", _get_relative_path(root, path), None, size) for path, size in pooled.items()]


def _list_tables(snapshots: Snapshots, fingerprint: str, going: set[str]) -> list[Path]:
    """The tables, of snapshots that stay, whose contents are in this store."""
    kept_ids = [snapshot_id for snapshot_id in snapshots.list_ids() if snapshot_id not in going]
    named = ((one, snapshots.read_manifest(one).embedding_stores.get(fingerprint)) for one in kept_ids)
    return [snapshots.get_path(one) / table for one, table in named if table]


def _collect_vectors(root: Root, folder: Path, used_in: list[Path], before: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Parts without the rows that nothing uses: each is written anew under its name in one step, or removed when it would be empty."""
    parts = PartFolder(root, folder)
    with parts.lease():
        for path in parts.list_parts():
            if path.stat().st_mtime > before:
                continue
            used, rows, size = _read_used_digests(root, path, used_in), int(pq.read_metadata(path).num_rows), path.stat().st_size
            if len(used) == rows:
                continue
            if not dry_run:
                _rewrite_part(root, path, used)
            yield Garbage("vectors", _get_relative_path(root, path), rows - len(used), round(size * (rows - len(used)) / rows))


def _read_used_digests(root: Root, part: Path, used_in: list[Path]) -> list[str]:
    """The contents of a part that one of the tables holds; at most the rows of a part."""
    if not used_in:
        return []
    used = f"SELECT content_digest FROM {parquet.scan_sql(*used_in, options='union_by_name=true')}"
    sql = f"SELECT content_digest FROM {parquet.scan_sql(part)} WHERE content_digest IN ({used})"
    return [digest for (digest,) in parquet.fetch_rows(sql, temp_dir=root.tmp)]


def _rewrite_part(root: Root, part: Path, used: list[str]) -> None:
    if not used:
        part.unlink()
        return
    kept = pa.array(used, pa.string())
    batches = (batch.filter(pc.is_in(batch.column("content_digest"), kept)) for batch in parquet.read_batches(part))
    with root.replace_atomically(part) as temporary:
        parquet.write_parquet(temporary, pq.read_schema(part), batches)


def _collect_dataset_folders(root: Root, before: float, live: set[str], *, dry_run: bool) -> Iterator[Garbage]:
    """Older folders of the stages, but those named in `live`: which are newer is told by the clock, and clocks are set."""
    for stage in sorted((root.path / "datasets").glob("*/*")):
        if stage.name == "cache":
            continue
        folders = sorted(stage.iterdir(), key=lambda folder: folder.stat().st_mtime)
        for folder in folders[:-STAGE_FOLDERS_TO_KEEP]:
            if folder.stat().st_mtime < before and folder.name not in live:
                yield Garbage("dataset", _get_relative_path(root, folder), None, _get_folder_size(folder))
                if not dry_run:
                    shutil.rmtree(folder)


def _collect_cached_stages(root: Root, going: set[str], *, dry_run: bool) -> Iterator[Garbage]:
    """Records of stages that cannot be believed any more, since a file of theirs is gone or going."""

    def is_gone(name: str) -> bool:
        return not (root.path / name).exists() or name in going or any(str(folder) in going for folder in Path(name).parents)

    for path in sorted(root.cache.glob("*")) if root.cache.is_dir() else []:
        # A part of the embedding store may be written anew and stay: its records are seen through by their sizes.
        if path.is_file() and any(is_gone(name) for name in _read_cached_files(path) if not name.startswith("embeddings/")):
            yield Garbage("remembered stage", _get_relative_path(root, path), None, path.stat().st_size)
            if not dry_run:
                path.unlink()


def _read_cached_files(cached_record: Path) -> list[str]:
    """The files that a remembered record rests on; none where it is not one of ours."""
    try:
        record: dict[str, Any] = json.loads(json.loads(cached_record.read_text(encoding="utf-8"))["result"])["data"]
        return [file.get("data", file)["path"] for file in record["files"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _get_folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _get_relative_path(root: Root, path: Path) -> str:
    return path.relative_to(root.path).as_posix()
