"""A folder of append-only Parquet parts with one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.root import Root


class PartFolder:
    """The files `part-00000.parquet`, `part-00001.parquet`, … Each was renamed into place, so none is half written.

    Args:
        root: The root that the folder belongs to.
        folder: The folder; it need not exist yet.
        prefix: The word before the number in the file names.
    """

    def __init__(self, root: Root, folder: Path, prefix: str = "part") -> None:
        self.root, self.folder, self.prefix = root, folder, prefix

    def list_parts(self) -> list[Path]:
        """List the committed parts by number. Fetch one before reading it."""
        return self.root.list_files(self.folder, f"{self.prefix}-*.parquet")

    def list_readable_parts(self) -> list[Path]:
        """List the parts whose footer can be read. The contents of the others count as missing.

        A part that is only in the object store is not read: its digest will be compared when it is fetched.
        """
        return [path for path in self.list_parts() if not (path.exists() and parquet.find_parquet_error(path))]

    def get_number(self, part: Path) -> int:
        """Return the number in a part's name."""
        return int(part.stem.removeprefix(f"{self.prefix}-"))

    def lease(self) -> AbstractContextManager[None]:
        """Lock the folder for writing. Waits for another writer, so that two pipelines never do the same work twice."""
        return self.root.store.lease(self.folder / "lease", holder="a build", wait=True)

    def get_next_number(self) -> int:
        """Return the number of the next part."""
        parts = self.list_parts()
        return self.get_number(parts[-1]) + 1 if parts else 0

    @contextmanager
    def add_part(self, number: int | None = None) -> Iterator[Path]:
        """Yield a temporary path that becomes a part when the block ends without an error.

        Args:
            number: The part's number, the next one by default. Where several processes write, their driver numbers the
                parts. A part that exists stays, since the same job may run twice.
        """
        number = self.get_next_number() if number is None else number
        with self.root.create_atomically(self.folder / f"{self.prefix}-{number:05d}.parquet") as temporary:
            yield temporary

    def add_batch(self, batch: pa.RecordBatch, number: int | None = None) -> None:
        """Commit the rows of `batch` as one part, numbered as in `add_part`."""
        with self.add_part(number) as temporary:
            parquet.write_parquet(temporary, batch.schema, [batch])

    def to_sql(self, schema: pa.Schema) -> str:
        """Return all rows as an SQL subquery. `schema` (string columns only) is used while there are no parts."""
        if parts := self.list_readable_parts():
            return f"(SELECT * FROM {parquet.scan_sql(*map(self.root.fetch, parts))})"
        return "(SELECT " + ", ".join(f"NULL::VARCHAR AS {name}" for name in schema.names) + " LIMIT 0)"

    def drop_damaged(self) -> list[Path]:
        """Remove the parts with an unreadable page or a wrong checksum and return them. The caller holds the lease."""
        local = [part for part in self.list_parts() if part.exists()]
        damaged = [part for part in local if parquet.find_parquet_error(part, thorough=True)]
        for part in damaged:
            self.root.remove(part)
        return damaged
