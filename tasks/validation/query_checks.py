"""Check the queries of one's own as items are checked: empty texts and undecodable images become rejects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from indexmill.configs.models import ValidateConfig
from indexmill.storage import image_check_cache, parquet
from indexmill.storage.contents import read_content_digest
from indexmill.storage.digests import content_digest
from indexmill.storage.items_table import SIDED_COLUMNS
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.validation import rejects
from indexmill.tasks.validation.image_checks import check_images
from indexmill.tasks.validation.text_normalization import normalize_for_grouping

LISTED_SCHEMA = pa.schema({"item_id": pa.int64(), "key": pa.string(), "text": pa.string(), "path": pa.string()})
# The columns of the split's table of items, without `leak`. A query has no label and no split of its own.
QUERIES_SCHEMA = pa.schema(SIDED_COLUMNS)

FRAME_SCHEMA = {name: pl.Int64 if name == "item_id" else pl.String for name in QUERIES_SCHEMA.names}


def check_queries(
    root: Root, limits: ValidateConfig, listed: Path, staging: Path, *, modality: Modality, image_root: str | None
) -> dict[str, int]:
    """Write `checked.parquet` (QUERIES_SCHEMA) and `rejects.parquet` (REJECTS_SCHEMA) to `staging`; count the rejects by reason.

    Args:
        root: The storage root.
        limits: The limits of texts and images.
        listed: The queries, with the columns of LISTED_SCHEMA.
        staging: The folder to write to.
        modality: What the queries are.
        image_root: The folder that image paths are relative to; None for texts.
    """
    valid, invalid = staging / "valid.parquet", staging / "invalid.parquet"
    with parquet.open_writer(invalid, rejects.REJECTS_SCHEMA) as writer:
        parquet.write_parquet(valid, QUERIES_SCHEMA, _iterate_valid(listed, limits, modality, image_root, writer))
    columns = ", ".join(QUERIES_SCHEMA.names)
    passing, rejected = f"SELECT {columns} FROM {parquet.scan_sql(valid)}", f"SELECT * FROM {parquet.scan_sql(invalid)}"
    if image_root is not None:
        failed = staging / "failed_images.parquet"
        cache = check_images(root, limits, image_root=image_root, items_path=valid, transient_path=failed)
        results = f"(SELECT * FROM {cache.to_sql(image_check_cache.IMAGE_CHECK_SCHEMA)} UNION ALL SELECT * FROM {parquet.scan_sql(failed)})"
        joined = f"({passing}) i JOIN {results} r ON r.content_digest = i.content_digest"
        chosen = ", ".join(f"{'r' if name == 'content_group' else 'i'}.{name}" for name in QUERIES_SCHEMA.names)
        failures = ", ".join(f"{'r' if name in ('reason', 'message') else 'i'}.{name}" for name in rejects.REJECTS_SCHEMA.names)
        passing = f"SELECT {chosen} FROM {joined} WHERE r.reason IS NULL"
        rejected = f"{rejected} UNION ALL SELECT {failures} FROM {joined} WHERE r.reason IS NOT NULL"
    parquet.copy_query(f"{passing} ORDER BY item_id", staging / "checked.parquet", temp_dir=root.tmp)
    parquet.copy_query(f"{rejected} ORDER BY item_id", staging / "rejects.parquet", temp_dir=root.tmp)
    counts = f"SELECT reason, count(*) FROM {parquet.scan_sql(staging / 'rejects.parquet')} GROUP BY 1 ORDER BY 1"
    return dict(parquet.fetch_rows(counts, temp_dir=root.tmp))


def _iterate_valid(
    listed: Path, limits: ValidateConfig, modality: Modality, image_root: str | None, writer: parquet.ParquetRowWriter
) -> Iterator[pa.RecordBatch]:
    from indexmill.tasks.validation.schema import build_items_schema, find_invalid_rows  # pandera is slow to import

    schema = build_items_schema(modality=modality, labeled=False, max_text_length=limits.max_text_length)
    for batch in parquet.read_batches(listed):
        rows = [_complete_row(row, image_root) for row in batch.to_pylist()]
        reasons = find_invalid_rows(pl.DataFrame(rows, schema=FRAME_SCHEMA), schema)
        writer.write([_make_reject(rows[number], reason) for number, reason in reasons.items()])
        yield pa.RecordBatch.from_pylist([row for number, row in enumerate(rows) if number not in reasons], schema=QUERIES_SCHEMA)


def _complete_row(row: dict[str, Any], image_root: str | None) -> dict[str, Any]:
    """Add digest and group; the group of an image comes from its decoding."""
    text, is_text = row["text"] or "", image_root is None
    digest = content_digest(text.encode()) if is_text else read_content_digest(str(image_root), row["path"])
    group = content_digest((normalize_for_grouping(text) or text).encode()) if is_text else None
    return {**row, "label": None, "given_split": None, "content_digest": digest, "content_group": group, "side": "query"}


def _make_reject(row: dict[str, Any], reason: rejects.RejectReason) -> dict[str, Any]:
    return {name: row[name] for name in ("item_id", "key", "content_digest")} | {"reason": reason.code, "message": reason.message}
