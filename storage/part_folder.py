"""A folder of append-only Parquet parts with one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.locks import lease
from indexmill.storage.root import Root


class PartFolder:
    """`part-00000.parquet`, `part-00001.parquet`, … Each is whole, since it was renamed into place. kind: the word before the number."""

    def __init__(self, root: Root, folder: Path, kind: str = "part") -> None:
        self.root, self.folder, self.kind = root, folder, kind

    def list_parts(self) -> list[Path]:
        """The committed parts, in the order of their numbers."""
        return sorted(self.folder.glob(f"{self.kind}-*.parquet"))

    def list_readable_parts(self) -> list[Path]:
        """Those of them whose footer can be read: what the others held counts as missing."""
        return [path for path in self.list_parts() if not parquet.find_parquet_error(path)]

    def lease(self) -> AbstractContextManager[None]:
        """Hold the folder for writing; waits, so that two pipelines never do the same work twice."""
        return lease(self.folder / "lease", holder="a build", wait=True)

    @contextmanager
    def add_part(self) -> Iterator[Path]:
        """Yield a temporary path that becomes the next part when the block ends well."""
        paths = self.list_parts()
        number = int(paths[-1].stem.removeprefix(f"{self.kind}-")) + 1 if paths else 0
        with self.root.replace_atomically(self.folder / f"{self.kind}-{number:05d}.parquet") as temporary:
            yield temporary

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Commit one part that holds the rows of `batch`."""
        with self.add_part() as temporary:
            parquet.write_parquet(temporary, batch.schema, [batch])

    def to_sql(self, schema: pa.Schema) -> str:
        """All rows as a table for SQL; `schema`, of strings, says its columns while there is no part."""
        if paths := self.list_readable_parts():
            return f"(SELECT * FROM {parquet.scan_sql(*paths)})"
        return "(SELECT " + ", ".join(f"NULL::VARCHAR AS {name}" for name in schema.names) + " LIMIT 0)"

    def drop_damaged(self) -> list[Path]:
        """Remove parts of which a page cannot be read or has another checksum. Call with the lease. Returns the parts removed."""
        damaged = [part for part in self.list_parts() if parquet.find_parquet_error(part, thorough=True)]
        for part in damaged:
            part.unlink()
        return damaged
