"""Merge the live snapshot of an index into one FAISS file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter

from indexmill.configs.models import IndexConfig
from indexmill.storage.atomic import commit
from indexmill.storage.manifests import Manifest
from indexmill.storage.retention import hold_snapshot
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.autofaiss_info import build_index_infos
from indexmill.tasks.indexing.factory import find_ivf
from indexmill.tasks.indexing.merge import merge_shards
from indexmill.tasks.indexing.shard_store import read_index


def merge_index(root: Root, name: str, output: Path, memory: str) -> dict[str, Any]:
    """Merge the live snapshot's shards into `output`, and write `<output>.infos.json` beside it.

    Args:
        root: The root of the index.
        name: The index.
        output: The FAISS file to write.
        memory: The most memory to use, as in `4G`; larger inverted lists go into a file beside the output.

    Returns:
        What `indexmill merge --json` prints; paths are absolute.
    """
    memory_limit = int(TypeAdapter(ByteSize).validate_python(memory))
    snapshots = Snapshots(root, name)
    with hold_snapshot(snapshots) as manifest:
        return _merge_snapshot(manifest, snapshots.fetch(manifest), output.resolve(), memory_limit)


def _merge_snapshot(manifest: Manifest, folder: Path, output: Path, memory_limit: int) -> dict[str, Any]:
    shards = [(folder / shard.index.path, shard.index) for shard in manifest.shards]
    lists = output.with_name(f"{output.stem}-{manifest.snapshot_id}.ivfdata")
    vectors, on_disk = merge_shards(shards, output, max_memory=memory_limit, lists_path=lists)
    files = [output, lists] if on_disk else [output]
    ivf = find_ivf(read_index(*shards[0], mapped=True))
    infos = build_index_infos(
        IndexConfig.model_validate(manifest.config["index"]),
        [output.name],
        size=sum(file.stat().st_size for file in files),
        vectors=vectors,
        dim=manifest.dim,
        lists=int(ivf.nlist) if ivf is not None else 0,
        timings=manifest.timings,
        baseline=manifest.training.get("baseline", {}),
    )
    return {
        "name": manifest.name,
        "snapshot_id": manifest.snapshot_id,
        "files": [str(file) for file in files],
        "infos": str(_write_infos(output, infos)),
        "vectors": vectors,
        "bytes": infos["size in bytes"],
    }


def _write_infos(output: Path, infos: dict[str, Any]) -> Path:
    path = output.with_name(output.name + ".infos.json")
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(infos, indent=2) + "\n", encoding="utf-8")
    commit(temporary, path)
    return path
