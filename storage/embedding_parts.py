"""One part of the embedding store as a Parquet file, written block by block.

Columns: `item_id` (int64: an item that had this content when it was encoded), `content_digest` (string), `truncated` (bool: the model
saw only the content's beginning) and `embedding` (fixed-size list of float32 or float16).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Stored = Literal["float32", "float16"]


class EmbeddingWriter:
    """A part that grows by blocks. `rows` counts them."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema, self.rows = file, schema, 0

    def write(self, item_ids: Sequence[int], digests: Sequence[str], truncated: np.ndarray, vectors: np.ndarray) -> None:
        """Add a block. truncated: bool (n,); vectors: float32 (n, dim), row i for item_ids[i] and digests[i]."""
        kind = self._schema.field("embedding").type
        numbers = pa.array(np.ascontiguousarray(vectors).astype(kind.value_type.to_pandas_dtype()).reshape(-1))
        columns = [pa.array(item_ids, pa.int64()), pa.array(digests, pa.string()), pa.array(truncated, pa.bool_())]
        block = pa.RecordBatch.from_arrays([*columns, pa.FixedSizeListArray.from_arrays(numbers, type=kind)], schema=self._schema)
        self._file.write_batch(block)
        self.rows += block.num_rows


@contextmanager
def open_part(path: Path, dim: int, stored: Stored = "float32") -> Iterator[EmbeddingWriter]:
    """Open a part for vectors of `dim` numbers."""
    columns = {"item_id": pa.int64(), "content_digest": pa.string(), "truncated": pa.bool_()}
    schema = pa.schema(columns | {"embedding": pa.list_(pa.from_numpy_dtype(stored), dim)})
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as file:
        yield EmbeddingWriter(file, schema)
