"""Cache the result of checking each image by content: its group, or the reason why it is rejected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.part_folder import PartFolder
from indexmill.storage.root import Root

IMAGE_CHECK_SCHEMA = pa.schema({"content_digest": pa.string(), "content_group": pa.string(), "reason": pa.string(), "message": pa.string()})


class ImageCheckCache(PartFolder):
    """The results under one policy: the limits and the libraries' versions. Either content_group is set, or reason and message are."""

    def __init__(self, root: Root, policy: str) -> None:
        super().__init__(root, root.image_checks(policy))

    def count_missing(self, rows: Path) -> int:
        """How many distinct contents of a table (content_digest, path) have not been opened."""
        return int(parquet.fetch_rows(f"SELECT count(*) FROM ({self._missing_sql(rows)})", temp_dir=self.root.tmp)[0][0])

    @contextmanager
    def open_missing(self, rows: Path) -> Iterator[Iterator[pa.RecordBatch]]:
        """Those contents as batches (content_digest, path), in the order of their paths, which disks like."""
        with parquet.query(self._missing_sql(rows) + " ORDER BY path", temp_dir=self.root.tmp) as batches:
            yield batches

    def _missing_sql(self, rows: Path) -> str:
        wanted = f"SELECT content_digest, min(path) AS path FROM {parquet.scan_sql(rows)} GROUP BY content_digest"
        return f"SELECT * FROM ({wanted}) ANTI JOIN {self.to_sql(IMAGE_CHECK_SCHEMA)} USING (content_digest)"
