"""Copies of remote images that no kept snapshot and no listing of a data set names any more.

A copy's name is unique: it is made from its URL and version, or from its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from indexmill.storage import parquet
from indexmill.storage.root import Root

REMOTE_PREFIX = "remote-"


def list_copy_folders(root: Root) -> list[Path]:
    """List the folders of copies on this machine, one per data set."""
    names = [name for name in root.list_folders(root.path / "sources") if name.startswith(REMOTE_PREFIX)]
    return [folder for name in names if (folder := root.source(name, "images")).is_dir()]


def find_unused_copies(root: Root, folders: Sequence[Path], tables: Sequence[Path], cutoff: float) -> Iterator[tuple[Path, list[Path]]]:
    """Yield every folder of copies with the files in it that no table names.

    Captions are in no table; they are small, and downloaded again.

    Args:
        root: The root.
        folders: The folders of copies.
        tables: Tables of items; those without a column `path` name none.
        cutoff: Files that were written after this time (Unix seconds) are kept. Modification times are the servers'.
    """
    with root.scratch.staging() as staging:
        used = staging / "used.parquet"
        named = [table for table in tables if "path" in pq.read_schema(table).names]
        paths = " UNION ".join(f"SELECT path FROM {parquet.scan_sql(table)}" for table in named) or "SELECT NULL::VARCHAR AS path"
        parquet.copy_query(f"SELECT DISTINCT path FROM ({paths}) WHERE path IS NOT NULL ORDER BY path", used, temp_dir=root.tmp)
        for images in folders:
            # A 256th of the copies at a time, so that memory does not hold the names of all.
            unused = (file for folder in sorted(images.iterdir()) for file in _list_unused(root, folder, used))
            yield images, [file for file in unused if file.stat().st_ctime < cutoff]


def _list_unused(root: Root, folder: Path, used: Path) -> list[Path]:
    sql = f"SELECT path FROM {parquet.scan_sql(used)} WHERE starts_with(path, '{folder.name}/')"
    names = {Path(path).name for (path,) in parquet.fetch_rows(sql, temp_dir=root.tmp)}
    return sorted(file for file in folder.iterdir() if file.name not in names)
