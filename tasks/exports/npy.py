"""NumPy files in the layout of clip-retrieval's `clip_inference`, which embedding-reader, autofaiss and clip-retrieval read.

`img_emb/img_emb_00000.npy` (or `text_emb/text_emb_00000.npy`), float32, and `metadata/metadata_00000.parquet`, whose rows
are in the same order. Besides our columns, the metadata have the names that clip-retrieval knows: `image_path` and `caption`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.contents import join_location
from indexmill.tasks.exports.files import divide_batches
from indexmill.tasks.exports.rows import SnapshotRows, get_vectors
from indexmill.tasks.progress import Advance


def write_files(rows: SnapshotRows, folder: Path, advance: Advance, *, final: Path | None) -> dict[str, Any]:  # noqa: ARG001
    """Write vectors and metadata (`tasks.exports.files.WriteFiles`)."""
    manifest = rows.manifest
    name = "img_emb" if manifest.index_modality == "image" else "text_emb"
    vectors_folder, metadata_folder = folder / name, folder / "metadata"
    vectors_folder.mkdir()
    metadata_folder.mkdir()
    clip_fields = [pa.field("image_path", pa.string()), pa.field("caption", pa.string())]
    schema = pa.schema([*rows.metadata_schema, *clip_fields])
    for number, size, batches in divide_batches(rows.read(), rows.count):
        vectors = np.lib.format.open_memmap(
            vectors_folder / f"{name}_{number:05d}.npy", mode="w+", dtype=np.float32, shape=(size, manifest.dim)
        )
        metadata = _fill_vectors(batches, vectors, schema, manifest.image_root)
        parquet.write_parquet(metadata_folder / f"metadata_{number:05d}.parquet", schema, metadata)
        vectors.flush()
        advance(size)
    return {"vectors": name}


def _fill_vectors(
    batches: Iterator[pa.RecordBatch], vectors: np.ndarray, schema: pa.Schema, image_root: str | None
) -> Iterator[pa.RecordBatch]:
    """Copy the vectors of the batches, and yield their metadata."""
    start = 0
    for batch in batches:
        vectors[start : start + batch.num_rows] = get_vectors(batch)
        start += batch.num_rows
        paths = [join_location(image_root, path) if image_root and path else path for path in batch.column("path").to_pylist()]
        columns = [*batch.drop_columns(["embedding"]).columns, pa.array(paths, pa.string()), batch.column("text").cast(pa.string())]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
