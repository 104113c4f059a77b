"""Write the table of rejected items, with the date on which each was first rejected."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.root import Root

REJECTS_SCHEMA = pa.schema(
    {"item_id": pa.int64(), "key": pa.string(), "reason": pa.string(), "message": pa.string(), "content_digest": pa.string()}
)
REJECT_HISTORY_SCHEMA = pa.schema(
    {name: pa.string() for name in ("key", "reason", "content_digest", "seen_since")}
)  # what is remembered of them
# What a reject is; the day on which it was first seen is no part of it.
REJECT_IDENTITY = REJECTS_SCHEMA.names


def write_rejects(root: Root, sql: str, history_path: Path, target: Path) -> dict[str, int]:
    """Write the rows of `sql` (SCHEMA's columns) with `seen_since`, and remember them in `history_path`. Returns the counts by reason.

    seen_since: UTC, ISO 8601; the first build in which the same key was rejected for the same reason with the same content.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    before = (
        f"{parquet.scan_sql(history_path)}"
        if not parquet.find_parquet_error(history_path, thorough=True)
        else "(SELECT '' AS key, '' AS reason, '' AS content_digest, '' AS seen_since LIMIT 0)"
    )
    dated = (
        f"SELECT r.*, coalesce(m.seen_since, '{now}') AS seen_since FROM ({sql}) r LEFT JOIN {before} m "
        "ON m.key = r.key AND m.reason = r.reason AND m.content_digest IS NOT DISTINCT FROM r.content_digest ORDER BY r.item_id"
    )
    parquet.copy_query(dated, target, temp_dir=root.tmp)
    seen = f"SELECT DISTINCT {', '.join(REJECT_HISTORY_SCHEMA.names)} FROM {parquet.scan_sql(target)}"
    with root.replace_atomically(history_path) as temporary, parquet.query(seen, temp_dir=root.tmp) as batches:
        parquet.write_parquet(temporary, REJECT_HISTORY_SCHEMA, batches)
    return dict(parquet.fetch_rows(f"SELECT reason, count(*) FROM {parquet.scan_sql(target)} GROUP BY 1 ORDER BY 1", temp_dir=root.tmp))
