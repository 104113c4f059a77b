"""Turn the pairs of images and captions into queries and judgements: captions for an index of images, images for one of captions.

Rows with equal images belong together, so that an image may have several captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.digests import query_id
from indexmill.tasks.validation.query_checks import LISTED_SCHEMA

JUDGED_SCHEMA = pa.schema({"query_id": pa.int64(), "item_id": pa.int64(), "item": pa.string(), "grade": pa.int32()})


def write_caption_queries(items: Path, staging: Path, *, temp_dir: Path) -> int:
    """Write every caption as a query (listed.parquet) for the rows with its image (judgements.parquet). Returns their number.

    The id of a query is the key of its row.
    """
    sql = f"SELECT key, text, NULL::VARCHAR AS path, content_digest FROM {parquet.scan_sql(items)} WHERE text <> '' ORDER BY key"
    return _write(sql, items, staging, relevant="true", temp_dir=temp_dir)


def write_image_queries(items: Path, staging: Path, *, temp_dir: Path) -> int:
    """Write every distinct image with a caption as a query (listed.parquet) for its captions (judgements.parquet). Returns their number.

    The id of a query is the first key of the rows with its image.
    """
    sql = (
        "SELECT min(key) AS key, NULL::VARCHAR AS text, arg_min(path, key) AS path, content_digest "
        f"FROM {parquet.scan_sql(items)} WHERE text <> '' GROUP BY content_digest ORDER BY 1"
    )
    return _write(sql, items, staging, relevant="i.text <> ''", temp_dir=temp_dir)


def _write(sql: str, items: Path, staging: Path, *, relevant: str, temp_dir: Path) -> int:
    schema = LISTED_SCHEMA.append(pa.field("content_digest", pa.string()))
    identified = staging / "identified.parquet"
    with parquet.query(sql, temp_dir=temp_dir) as batches:
        count = parquet.write_parquet(identified, schema, _add_ids(batches, schema))
    columns = ", ".join(LISTED_SCHEMA.names)
    parquet.copy_query(f"SELECT {columns} FROM {parquet.scan_sql(identified)}", staging / "listed.parquet", temp_dir=temp_dir)
    judged_sql = (
        f"SELECT q.item_id AS query_id, i.item_id, i.key AS item, 1::INTEGER AS grade FROM {parquet.scan_sql(identified)} q "
        f"JOIN {parquet.scan_sql(items)} i ON i.content_digest = q.content_digest WHERE {relevant} ORDER BY 1, 2"
    )
    parquet.copy_query(judged_sql, staging / "judgements.parquet", temp_dir=temp_dir)
    return count


def _add_ids(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        ids = [query_id("", key) for key in batch.column("key").to_pylist()]
        columns = {"item_id": pa.array(ids, pa.int64())} | {name: batch.column(name) for name in batch.schema.names}
        yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
