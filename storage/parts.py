"""A folder of Parquet parts that are only ever added, by one writer at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage import tables
from storage.lease import lease
from storage.root import Root


class Parts:
    """`part-00000.parquet`, `part-00001.parquet`, … Each is whole, since it was renamed into place."""

    def __init__(self, root: Root, folder: Path) -> None:
        self.root, self.folder = root, folder

    def paths(self) -> list[Path]:
        """The committed parts, in the order of their numbers."""
        return sorted(self.folder.glob("part-*.parquet"))

    def lease(self) -> AbstractContextManager[None]:
        """Hold the folder for writing; waits, so that two pipelines never do the same work twice."""
        return lease(self.folder / "lease", holder="a build", wait=True)

    def add(self, batch: pa.RecordBatch) -> Path:
        """Commit one part that holds the rows of `batch`."""
        paths = self.paths()
        number = int(paths[-1].stem.removeprefix("part-")) + 1 if paths else 0
        target = self.folder / f"part-{number:05d}.parquet"
        with self.root.replacing(target) as temporary:
            tables.write_parquet(temporary, batch.schema, [batch])
        return target

    def drop_damaged(self) -> list[Path]:
        """Remove parts whose Parquet footer cannot be read; what they held counts as missing. Returns the parts removed."""
        damaged = []
        for part in self.paths():
            try:
                pq.read_metadata(part)
            except (OSError, pa.ArrowException):
                part.unlink()
                damaged.append(part)
        return damaged
