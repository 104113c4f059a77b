"""A cache of image checks by content digest: the content group and the perceptual hash, or the reason for the rejection."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.part_folder import PartFolder
from indexmill.storage.root import Root

IMAGE_CHECK_SCHEMA = pa.schema({name: pa.string() for name in ("content_digest", "content_group", "perceptual_hash", "reason", "message")})


class ImageCheckCache(PartFolder):
    """The results under one policy, that is, one set of limits and library versions.

    In a row either `content_group` and `perceptual_hash` are set, or `reason` and `message` are.
    """

    def __init__(self, root: Root, policy: str) -> None:
        super().__init__(root, root.image_checks(policy))

    def count_missing(self, rows: Path) -> int:
        """Count the distinct contents of a table (content_digest, path) that have not been checked."""
        return int(parquet.fetch_rows(f"SELECT count(*) FROM ({self._missing_sql(rows)})", temp_dir=self.root.tmp)[0][0])

    def write_check_plan(self, rows: Path, chunk_rows: int, target: Path) -> int:
        """Write the unchecked contents as a table (chunk, content_digest, path), ordered by path; return their number."""
        chunk = f"(row_number() OVER (ORDER BY path, content_digest) - 1) // {chunk_rows}"
        sql = f"SELECT {chunk} AS chunk, content_digest, path FROM ({self._missing_sql(rows)}) ORDER BY path, content_digest"
        return parquet.copy_query(sql, target, temp_dir=self.root.tmp)

    def _missing_sql(self, rows: Path) -> str:
        contents = f"SELECT content_digest, min(path) AS path FROM {parquet.scan_sql(rows)} GROUP BY content_digest"
        return f"SELECT * FROM ({contents}) ANTI JOIN {self.to_sql(IMAGE_CHECK_SCHEMA)} USING (content_digest)"
