"""Helpers for tests of tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.storage.root import Root
from indexmill.tasks.sources.table import TableSource

WriteImage = Callable[[Path], Path]
Row = dict[str, Any]


def write_table(path: Path, rows: list[Row]) -> Path:
    """Write the rows in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
    return path


def make_source(root: Root, path: Path | str, **columns: Any) -> TableSource:
    suffix = Path(path).suffix[1:]
    return TableSource(TableDatasetConfig.model_validate({"source": suffix, "path": str(path), **columns}), root)
