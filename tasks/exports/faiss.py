"""One FAISS index, merged from the snapshot's shards: `merged.faiss`, whose ids are the item ids, and `metadata.parquet`.

Inverted lists that take more than MAX_MEMORY are merged on disk, list by list, into `merged.ivfdata`. Graphs, and codes that
FAISS cannot page (fast scan), are merged in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.exports.files import write_metadata
from indexmill.tasks.exports.rows import SnapshotRows
from indexmill.tasks.indexing.merge import merge_shards
from indexmill.tasks.progress import Advance

MAX_MEMORY = 4_000_000_000
INDEX_FILE, LISTS_FILE = "merged.faiss", "merged.ivfdata"


def write_files(rows: SnapshotRows, folder: Path, advance: Advance, *, final: Path | None) -> dict[str, Any]:
    """Write index and metadata (`tasks.exports.files.WriteFiles`)."""
    manifest = rows.manifest
    snapshots = Snapshots(rows.root, manifest.name)
    shards = [(snapshots.file(manifest, shard.index.path), shard.index) for shard in manifest.shards]
    _, on_disk = merge_shards(
        shards,
        folder / INDEX_FILE,
        max_memory=MAX_MEMORY,
        lists_path=folder / LISTS_FILE,
        final_lists_path=Path(LISTS_FILE) if final is None else final / LISTS_FILE,
    )
    write_metadata(rows, folder)
    advance(rows.count)
    params = manifest.search.params.model_dump(exclude_none=True)
    return {"index": INDEX_FILE, "lists": LISTS_FILE if on_disk else None, "factory": manifest.factory, "search": params}
