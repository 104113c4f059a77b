"""The content groups of texts. Those that the last build found are used again, so that only new texts are normalized."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.digests import content_digest, json_digest
from indexmill.storage.root import Root
from indexmill.tasks.validation.text_normalization import normalize_for_grouping

KNOWN_GROUP = "known_group"


def compute_text_group(text: str) -> str:
    """Return the group of texts that differ only in case, punctuation and spacing."""
    return content_digest((normalize_for_grouping(text) or text).encode())  # a text of punctuation alone stays as it is


class TextGroupCache:
    """A data set's groups by content digest, as the last build found them. It may be deleted.

    Args:
        root: The storage root.
        name: The data set.
        version: The version of the stage that uses the groups; those of another one are not used.
    """

    def __init__(self, root: Root, name: str, version: int) -> None:
        key = json_digest([version, unicodedata.unidata_version])
        self._root, self._path = root, root.dataset_cache(name, f"text-groups-{key[:8]}")

    def read_rows(self, table: Path) -> Iterator[pa.RecordBatch]:
        """Yield a table's rows in order, with the groups of the contents that are known in the column KNOWN_GROUP."""
        cache = self._root.fetch(self._path)
        if parquet.find_parquet_error(cache, thorough=True):
            for batch in parquet.read_batches(table):
                yield batch.append_column(KNOWN_GROUP, pa.nulls(batch.num_rows, pa.string()))
            return
        sql = (
            f"SELECT rows.* EXCLUDE file_row_number, known.content_group AS {KNOWN_GROUP} "
            f"FROM {parquet.scan_sql(table, options='file_row_number=true')} rows "
            f"LEFT JOIN {parquet.scan_sql(cache)} known ON known.content_digest = rows.content_digest ORDER BY rows.file_row_number"
        )
        with parquet.query(sql, temp_dir=self._root.tmp) as batches:
            yield from batches

    def save(self, rows: Path) -> None:
        """Replace what is known by the groups of these rows."""
        sql = f"SELECT content_digest, any_value(content_group) AS content_group FROM {parquet.scan_sql(rows)} GROUP BY content_digest"
        with self._root.replace_atomically(self._path) as temporary:
            parquet.copy_query(sql, temporary, temp_dir=self._root.tmp)
