"""The digest of a table's rows, computed from Arrow's columns instead of row by row.

Rows are cut into blocks of BLOCK_ROWS, wherever the parts, row groups and batches that they come from end. A block's
digest is the BLAKE2b of each column's values in little-endian order: which rows are null, then fixed-width values with
0 for null, or for strings their lengths in bytes and then the bytes. The table's digest covers the names and types of
the columns, the number of rows and the digests of the blocks, so blocks can be computed on their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BLOCK_ROWS = 1 << 16
DIGEST_BYTES = 32


def table_digest(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """Return the 256-bit digest of the rows in order, as 64 hexadecimal digits.

    Args:
        schema: The names and types of the columns. A string column has one digest, whether it is a `string`, a
            `large_string` or a dictionary.
        batches: The rows; where one batch ends and the next begins does not count.
    """
    digest, count = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
    digest.update(json.dumps([[field.name, _name_type(field.type)] for field in schema]).encode())
    for block in _cut_blocks(batches):
        digest.update(block_digest(block))
        count += block.num_rows
    digest.update(count.to_bytes(8, "little"))
    return digest.hexdigest()


def block_digest(block: pa.Table) -> bytes:
    """Return the digest of one block's values, DIGEST_BYTES bytes."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for column in block.columns:
        array = column.combine_chunks()
        for part in _iter_bytes(array):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    return digest.digest()


def _cut_blocks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    pending: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        while rows + batch.num_rows >= BLOCK_ROWS:
            head = batch.slice(0, BLOCK_ROWS - rows)
            yield pa.Table.from_batches([*pending, head])
            batch, pending, rows = batch.slice(head.num_rows), [], 0
        if batch.num_rows:
            pending.append(batch)
            rows += batch.num_rows
    if pending:
        yield pa.Table.from_batches(pending)


def _name_type(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return "string" if pa.types.is_large_string(kind) else str(kind)


def _iter_bytes(array: pa.Array) -> Iterator[bytes | memoryview]:
    """Yield what determines an array's values: the nulls, and the values."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    yield b"" if not array.null_count else np.packbits(array.is_null().to_numpy(zero_copy_only=False)).tobytes()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        strings = pc.fill_null(array, "") if array.null_count else array
        yield pc.binary_length(strings).cast(pa.int64()).to_numpy(zero_copy_only=False).astype("<i8").tobytes()
        yield _read_string_bytes(strings)
    elif pa.types.is_boolean(array.type) or pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        values = pc.fill_null(array, pa.scalar(0).cast(array.type)) if array.null_count else array
        numbers = values.to_numpy(zero_copy_only=False)
        yield np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<")).tobytes()
    else:
        yield json.dumps(array.to_pylist(), default=str).encode("utf-8", "surrogatepass")


def _read_string_bytes(strings: pa.Array) -> memoryview | bytes:
    """Return the bytes of all strings, one after another, without a copy. Arrow stores them like that."""
    _, offsets, data = strings.buffers()
    if data is None or not len(strings):
        return b""
    width = np.dtype("<i8" if pa.types.is_large_string(strings.type) else "<i4")
    ends = np.frombuffer(offsets, width)[[strings.offset, strings.offset + len(strings)]]
    return memoryview(data)[int(ends[0]) : int(ends[1])]
