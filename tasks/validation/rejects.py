"""Write the table of rejected items, with the date on which each was first rejected."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.root import Root

REJECTS_SCHEMA = pa.schema(
    {"item_id": pa.int64(), "key": pa.string(), "reason": pa.string(), "message": pa.string(), "content_digest": pa.string()}
)
REJECT_HISTORY_SCHEMA = pa.schema({"key": pa.string(), "reason": pa.string(), "content_digest": pa.string(), "seen_since": pa.string()})
# The columns that define a reject. The date of its first rejection does not.
REJECT_IDENTITY = REJECTS_SCHEMA.names


class RejectReason(NamedTuple):
    """Why an item is rejected: a stable code, and a message with the details."""

    code: str
    message: str


def write_rejects(root: Root, sql: str, history_path: Path, target: Path) -> dict[str, int]:
    """Write the rejects with the date since when each is rejected, and update the history of rejects.

    Args:
        root: The storage root.
        sql: The rejects, with the columns of REJECTS_SCHEMA.
        history_path: The Parquet file of the previous build's rejects; replaced by this build's.
        target: The Parquet file to write: the rows of `sql` and `seen_since`, the time (UTC, ISO 8601) of the first
            build in a row that rejected the same key for the same reason with the same content.

    Returns:
        The number of rejects by reason.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    has_history = not parquet.find_parquet_error(history_path, thorough=True)
    empty_sql = "(SELECT '' AS key, '' AS reason, '' AS content_digest, '' AS seen_since LIMIT 0)"
    history_sql = parquet.scan_sql(history_path) if has_history else empty_sql
    dated_sql = (
        f"SELECT r.*, coalesce(h.seen_since, '{now}') AS seen_since FROM ({sql}) r LEFT JOIN {history_sql} h "
        "ON h.key = r.key AND h.reason = r.reason AND h.content_digest IS NOT DISTINCT FROM r.content_digest ORDER BY r.item_id"
    )
    parquet.copy_query(dated_sql, target, temp_dir=root.tmp)
    new_history_sql = f"SELECT DISTINCT {', '.join(REJECT_HISTORY_SCHEMA.names)} FROM {parquet.scan_sql(target)}"
    with root.replace_atomically(history_path) as temporary, parquet.query(new_history_sql, temp_dir=root.tmp) as batches:
        parquet.write_parquet(temporary, REJECT_HISTORY_SCHEMA, batches)
    counts_sql = f"SELECT reason, count(*) FROM {parquet.scan_sql(target)} GROUP BY 1 ORDER BY 1"
    return dict(parquet.fetch_rows(counts_sql, temp_dir=root.tmp))
