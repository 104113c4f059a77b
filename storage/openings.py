"""What came of opening an image, by content: its group, or the reason why it cannot be used. An image is opened once, not every night."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from indexmill.storage import tables
from indexmill.storage.parts import Parts
from indexmill.storage.root import Root

SCHEMA = pa.schema({"content_digest": pa.string(), "content_group": pa.string(), "reason": pa.string(), "message": pa.string()})


class Openings(Parts):
    """The results under one policy: the limits and the libraries' versions. Either content_group is set, or reason and message are."""

    def __init__(self, root: Root, policy: str) -> None:
        super().__init__(root, root.openings(policy))

    def count_missing(self, rows: Path) -> int:
        """How many distinct contents of a table (content_digest, path) have not been opened."""
        return int(tables.rows(f"SELECT count(*) FROM ({self._missing_sql(rows)})", spill=self.root.tmp)[0][0])

    @contextmanager
    def missing(self, rows: Path) -> Iterator[Iterator[pa.RecordBatch]]:
        """Those contents as batches (content_digest, path), in the order of their paths, which disks like."""
        with tables.query(self._missing_sql(rows) + " ORDER BY path", spill=self.root.tmp) as batches:
            yield batches

    def _missing_sql(self, rows: Path) -> str:
        wanted = f"SELECT content_digest, min(path) AS path FROM {tables.parquet(rows)} GROUP BY content_digest"
        return f"SELECT * FROM ({wanted}) ANTI JOIN {self.sql(SCHEMA)} USING (content_digest)"
