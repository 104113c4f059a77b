"""A graph for hnswlib: `graph.bin`, whose labels are the item ids, and `metadata.parquet`.

hnswlib builds and saves a graph in memory: about 4 bytes per dimension and 150 bytes more for each vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indexmill.storage.errors import ExportFailed
from indexmill.tasks.exports.base import import_client
from indexmill.tasks.exports.files import write_metadata
from indexmill.tasks.exports.rows import SnapshotRows, get_vectors
from indexmill.tasks.progress import Advance

GRAPH_DEGREE, EF_CONSTRUCTION = 16, 200  # hnswlib's own examples; recall and size of a graph that is not tuned
SPACES = {"cosine": "cosine", "ip": "ip", "l2": "l2"}


def write_files(rows: SnapshotRows, folder: Path, advance: Advance, *, final: Path | None) -> dict[str, Any]:  # noqa: ARG001
    """Write graph and metadata (`tasks.exports.files.WriteFiles`)."""
    hnswlib = import_client("hnswlib", "hnswlib")
    index = hnswlib.Index(space=SPACES[rows.manifest.metric], dim=rows.manifest.dim)
    index.init_index(max_elements=rows.count, M=GRAPH_DEGREE, ef_construction=EF_CONSTRUCTION)
    for batch in rows.read():
        index.add_items(get_vectors(batch), batch.column("item_id").to_numpy())
        advance(batch.num_rows)
    path = folder / "graph.bin"
    index.save_index(str(path))
    if path.stat().st_size != index.index_file_size():  # it does not notice a full disk
        raise ExportFailed("the graph was not written completely", where=str(path), got=f"{path.stat().st_size} bytes")
    write_metadata(rows, folder)
    return {"index": path.name, "space": index.space, "M": GRAPH_DEGREE, "ef_construction": EF_CONSTRUCTION}
