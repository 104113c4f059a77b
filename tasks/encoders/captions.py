"""The captions of images as an items table of their own, aligned with the images' by item id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from indexmill.storage import tables
from indexmill.storage.digests import content_digest


def write_captions(items: Path, target: Path) -> int:
    """Write the rows that have a text, with the text's digest in the place of the image's, and no path. Returns how many there are."""
    schema = pa.schema([field.with_nullable(True) for field in pq.read_schema(items)])
    return tables.write_parquet(target, schema, _captions(items, schema))


def _captions(items: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in tables.read_batches(items):
        told = batch.filter(pc.fill_null(pc.not_equal(batch.column("text"), ""), False))
        if not told.num_rows:
            continue
        digests = [content_digest(text.encode()) for text in told.column("text").to_pylist()]
        replaced = {"content_digest": pa.array(digests, pa.string()), "path": pa.nulls(told.num_rows, pa.string())}
        yield pa.RecordBatch.from_arrays([replaced.get(name, told.column(name)) for name in schema.names], schema=schema)
