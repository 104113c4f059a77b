"""Find and remove what no kept snapshot needs.

The caller holds the root exclusively (`Root.hold_exclusive`), so no build runs in the meantime.
Readers of snapshots may continue."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.image_copies import find_unused_copies, list_copy_folders
from indexmill.storage.part_folder import PartFolder
from indexmill.storage.part_keys import remove_keys
from indexmill.storage.retention import apply_retention, find_expired_snapshots, find_unreferenced_files
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

SECONDS_PER_DAY = 86_400
STAGE_FOLDERS_TO_KEEP = 2  # per stage of a data set: those of the last two builds
GarbageKind = Literal["snapshot", "pool file", "vectors", "dataset", "cached stage", "image copies"]


@dataclass(frozen=True)
class Garbage:
    """Something that nothing needs any more.

    path: Relative to the root.
    rows: The number of vectors, for kind "vectors".
    bytes: The size on disk; for vectors their share of the part.
    """

    kind: GarbageKind
    path: str
    rows: int | None
    bytes: int


def collect_garbage(root: Root, *, days: float = 1, dry_run: bool = False) -> list[Garbage]:
    """Remove what no kept snapshot needs.

    Snapshots are kept by the retention settings of their index's live config. Vectors are removed when no kept snapshot
    has their content, folders of a data set except the newest of each stage, and cached stages when their files are
    removed, and copies of remote images that neither a kept snapshot nor a kept listing names. Pool files share disk space
    with the snapshots that link to them.

    Args:
        root: The root.
        days: Keep vectors and folders that are younger than this.
        dry_run: Remove nothing.

    Returns:
        What was removed, or with `dry_run` would be.
    """
    indexes = [Snapshots(root, name) for name in root.list_indexes()]
    garbage = [entry for snapshots in indexes for entry in _collect_snapshots(snapshots, dry_run=dry_run)]
    expired_ids = {Path(entry.path).name for entry in garbage if entry.kind == "snapshot"}
    cutoff = root.store.now() - days * SECONDS_PER_DAY
    for fingerprint in root.list_folders(root.path / "embeddings"):
        folder = root.embeddings(fingerprint)
        tables = [path for snapshots in indexes for path in _list_tables(snapshots, fingerprint, expired_ids)]
        garbage += _collect_vectors(root, folder, tables, cutoff, dry_run=dry_run)
    live = {digest[:16] for snapshots in indexes if (manifest := snapshots.read_live_manifest()) for digest in manifest.datasets.values()}
    live |= {folder for snapshots in indexes for folder in _list_linked_folders(snapshots, expired_ids)}
    garbage += _collect_dataset_folders(root, cutoff, live, dry_run=dry_run)
    garbage += _collect_image_copies(root, indexes, expired_ids, {entry.path for entry in garbage}, cutoff, dry_run=dry_run)
    garbage += _collect_cached_stages(root, {entry.path for entry in garbage}, dry_run=dry_run)
    if not dry_run:
        root.store.remove_stale_copies()
    return garbage


def _collect_snapshots(snapshots: Snapshots, *, dry_run: bool) -> list[Garbage]:
    root, live = snapshots.root, snapshots.read_live_manifest()
    if live is None:
        return []
    keep, keep_days = live.config["publish"]["keep"], live.config["publish"].get("keep_days", 0)
    expired_ids = find_expired_snapshots(snapshots, keep, keep_days)
    sizes = {snapshot_id: _get_snapshot_size(snapshots, snapshot_id) for snapshot_id in expired_ids}
    pool_files = {path: _get_size(root, path) for path in find_unreferenced_files(snapshots, frozenset(expired_ids))}
    if not dry_run:
        expired_ids = apply_retention(snapshots, keep, keep_days)
        pool_files = {path: size for path, size in pool_files.items() if not root.exists(path)}
    return [
        *(
            Garbage("snapshot", _get_relative_path(root, snapshots.get_path(snapshot_id)), None, sizes[snapshot_id])
            for snapshot_id in expired_ids
        ),
        *(Garbage("pool file", _get_relative_path(root, path), None, size) for path, size in pool_files.items()),
    ]


def _list_tables(snapshots: Snapshots, fingerprint: str, expired_ids: set[str]) -> list[Path]:
    """List the tables of kept snapshots whose contents have vectors in this store."""
    tables = []
    for manifest in snapshots.read_manifests():
        if manifest.snapshot_id not in expired_ids:
            names = [manifest.embedding_stores.get(fingerprint), *manifest.query_stores.get(fingerprint, ())]
            tables += [snapshots.file(manifest, name) for name in names if name]
    return tables


def _list_linked_folders(snapshots: Snapshots, expired_ids: set[str]) -> Iterator[str]:
    """Yield the names of the data set folders that kept snapshots have links into."""
    for manifest in snapshots.read_manifests():
        if manifest.snapshot_id not in expired_ids:
            yield from (Path(path).parent.name for path in manifest.sources.values() if path.startswith("datasets/"))


def _collect_vectors(root: Root, folder: Path, tables: list[Path], cutoff: float, *, dry_run: bool) -> Iterator[Garbage]:
    """Drop unused rows from parts: rewrite each part atomically under its name, or remove it when no row is left."""
    store = PartFolder(root, folder)
    with store.lease():
        for path in store.list_parts():
            info = root.store.info(path)
            if info is None or info.modified > cutoff:
                continue
            root.fetch(path)
            used, rows, size = _read_used_digests(root, path, tables), int(pq.read_metadata(path).num_rows), info.size
            if len(used) == rows:
                continue
            if not dry_run:
                _rewrite_part(root, path, used)
            yield Garbage("vectors", _get_relative_path(root, path), rows - len(used), round(size * (rows - len(used)) / rows))


def _read_used_digests(root: Root, part: Path, tables: list[Path]) -> list[str]:
    """Read the content digests of a part that are in one of the tables."""
    if not tables:
        return []
    used = f"SELECT content_digest FROM {parquet.scan_sql(*tables, options='union_by_name=true')}"
    sql = f"SELECT content_digest FROM {parquet.scan_sql(part)} WHERE content_digest IN ({used})"
    return [digest for (digest,) in parquet.fetch_rows(sql, temp_dir=root.tmp)]


def _rewrite_part(root: Root, part: Path, used: list[str]) -> None:
    remove_keys(root, part)  # first: keys must never list a content that the part has no more
    if not used:
        root.remove(part)
        return
    used_digests = pa.array(used, pa.string())
    batches = (batch.filter(pc.is_in(batch.column("content_digest"), used_digests)) for batch in parquet.read_batches(part))
    with root.replace_atomically(part) as temporary:
        parquet.write_parquet(temporary, pq.read_schema(part), batches)


def _collect_dataset_folders(root: Root, cutoff: float, live: set[str], *, dry_run: bool) -> Iterator[Garbage]:
    """Remove the older folders of each stage, except those named in `live`: modification times depend on the clock."""
    stages = defaultdict[Path, dict[Path, list[Path]]](lambda: defaultdict(list))
    for path in root.list_files(root.path / "datasets", "*/*/*/*"):
        stages[path.parent.parent][path.parent].append(path)
    for stage in sorted(stages):
        modified = {folder: max(_get_modified(root, path) for path in files) for folder, files in stages[stage].items()}
        for folder in sorted(modified, key=lambda folder: (modified[folder], folder))[:-STAGE_FOLDERS_TO_KEEP]:
            if modified[folder] < cutoff and folder.name not in live:
                files = stages[stage][folder]
                yield Garbage("dataset", _get_relative_path(root, folder), None, sum(_get_size(root, path) for path in files))
                if not dry_run:
                    for path in files:
                        root.remove(path)
                    shutil.rmtree(folder, ignore_errors=True)


def _collect_image_copies(
    root: Root, indexes: list[Snapshots], expired_ids: set[str], removed: set[str], cutoff: float, *, dry_run: bool
) -> Iterator[Garbage]:
    """Remove downloaded images that neither a kept snapshot nor a kept listing names."""
    if not (folders := list_copy_folders(root)):
        return
    listings = root.list_files(root.path / "datasets", "*/ingested/*/items.parquet")
    tables = [root.fetch(path) for path in listings if _get_relative_path(root, path.parent) not in removed]
    for snapshots in indexes:
        kept = [manifest for manifest in snapshots.read_manifests() if manifest.snapshot_id not in expired_ids]
        tables += [snapshots.file(manifest, "items.parquet") for manifest in kept]
    for folder, files in find_unused_copies(root, folders, tables, cutoff):
        if files:
            yield Garbage("image copies", _get_relative_path(root, folder), None, sum(file.stat().st_size for file in files))
            if not dry_run:
                for file in files:
                    file.unlink()


def _collect_cached_stages(root: Root, removed: set[str], *, dry_run: bool) -> Iterator[Garbage]:
    """Remove cached records that refer to a missing or removed file."""
    for path in root.list_files(root.cache, "*"):
        # A part of the embedding store may have been rewritten under its name. A cached stage checks its size itself.
        names = [name for name in _read_cached_files(root.fetch(path)) if not name.startswith("embeddings/")]
        if any(_is_gone(root, name, removed) for name in names):
            yield Garbage("cached stage", _get_relative_path(root, path), None, _get_size(root, path))
            if not dry_run:
                root.remove(path)


def _is_gone(root: Root, name: str, removed: set[str]) -> bool:
    """Whether a file is missing, or is or will be removed itself or with a folder above it."""
    return not root.exists(root.path / name) or name in removed or any(str(folder) in removed for folder in Path(name).parents)


def _read_cached_files(cached_record: Path) -> list[str]:
    """List the files that a cached record refers to; none when it is not one of Indexmill's."""
    try:
        record: dict[str, Any] = json.loads(json.loads(cached_record.read_text(encoding="utf-8"))["result"])["data"]
        return [file.get("data", file)["path"] for file in record["files"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _get_snapshot_size(snapshots: Snapshots, snapshot_id: str) -> int:
    folder = snapshots.get_path(snapshot_id)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _get_size(root: Root, path: Path) -> int:
    info = root.store.info(path)
    return info.size if info else 0


def _get_modified(root: Root, path: Path) -> float:
    info = root.store.info(path)
    return info.modified if info else 0.0


def _get_relative_path(root: Root, path: Path) -> str:
    return path.relative_to(root.path).as_posix()
