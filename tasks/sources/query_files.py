"""Open the queries of one's own and their judgements: files, or those that a BEIR data set brings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

from indexmill.configs.datasets import BeirDatasetConfig, QueriesConfig, TableDatasetConfig
from indexmill.configs.models import OwnQueriesConfig
from indexmill.storage.digests import json_digest, rows_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.beir import BeirSource
from indexmill.tasks.sources.image_table import find_image_type
from indexmill.tasks.sources.judgements import Judgement, read_judgements
from indexmill.tasks.sources.table import TableSource
from indexmill.tasks.sources.table_reader import TableFormat, require_columns


class QuerySource(Protocol):
    """The queries of one set and their judgements, as they are stored.

    Attributes:
        modality: What the queries are.
        image_root: The folder that image paths are relative to; None for texts.
        has_judgements: Whether there are judgements; without, only agreement with exact search is measured.
        judged_only: Whether queries without a judgement are left out.
    """

    modality: Modality
    image_root: Path | None
    has_judgements: bool
    judged_only: bool

    def compute_revision(self) -> str:
        """Return a digest that changes whenever a query or a judgement may have changed."""
        ...

    def queries(self) -> Iterator[Item]:
        """Yield all queries, each with its id as the key."""
        ...

    def judgements(self) -> Iterator[Judgement]:
        """Yield all judgements."""
        ...


def open_query_sources(config: OwnQueriesConfig, root: Root) -> dict[str, QuerySource]:
    """Open every set by its name, the main one first; none for `queries: pairs`, which need no file.

    Raises:
        InputError: A file does not exist, or lacks a column.
    """
    sources: dict[str, QuerySource] = {}
    for name, entry in config.by_name.items():
        prefix = f"evaluation.sets.{name}" if name else "dataset"
        if isinstance(entry.queries, QueriesConfig):
            sources[name] = QueryFile(entry.queries, entry.judgements, prefix)
        elif isinstance(config.dataset, BeirDatasetConfig):
            sources[name] = BeirQueries(BeirSource(config.dataset, root), entry.split, entry.judgements, prefix)
    return sources


class QueryFile:
    """A table of queries, and a file of judgements."""

    judged_only = False

    def __init__(self, config: QueriesConfig, judgements: str | None, prefix: str) -> None:
        path = _require_file(config.path, f"{prefix}.queries")
        table_format = cast("TableFormat", path.suffix[1:])
        content = "image_column" if config.image_column else "text_column"
        columns = {f"{prefix}.queries.{name}": getattr(config, name) for name in ("id_column", content)}
        if table_format == "parquet" and find_image_type(path, config.image_column) is not None:
            del columns[f"{prefix}.queries.image_column"]
        require_columns(path, table_format, columns)
        text_column = None if config.image_column else config.text_column
        table = TableDatasetConfig(
            source=table_format,
            path=str(path),
            key_column=config.id_column,
            text_column=text_column,
            image_column=config.image_column,
        )
        self._table = TableSource(table)
        self._judgements = _require_file(judgements, f"{prefix}.judgements") if judgements else None
        self.modality, self.image_root = self._table.modality, self._table.image_root
        self.has_judgements = judgements is not None

    def compute_revision(self) -> str:
        """Return a digest of the files' sizes and modification times, images included."""
        return json_digest([self._table.compute_revision(), _digest_file(self._judgements)])

    def queries(self) -> Iterator[Item]:
        """Yield the rows of the table."""
        return self._table.items()

    def judgements(self) -> Iterator[Judgement]:
        """Yield the judgements of the file, if there is one."""
        return read_judgements(self._judgements) if self._judgements else iter(())


class BeirQueries:
    """The queries of a BEIR data set that one of its splits judges, or a file of judgements."""

    modality: Modality = "text"
    image_root: Path | None = None
    has_judgements = True
    judged_only = True

    def __init__(self, source: BeirSource, split: str | None, judgements: str | None, prefix: str) -> None:
        self._source, self._split = source, split or "test"
        self._judgements = _require_file(judgements, f"{prefix}.judgements") if judgements else None

    def compute_revision(self) -> str:
        """Return a digest of the files or of the commit."""
        if self._judgements:
            return json_digest([self._source.compute_revision(), _digest_file(self._judgements)])
        return self._source.compute_query_revision(self._split)

    def queries(self) -> Iterator[Item]:
        """Yield the queries of all splits."""
        return self._source.queries()

    def judgements(self) -> Iterator[Judgement]:
        """Yield the judgements of the split or the file."""
        return read_judgements(self._judgements) if self._judgements else self._source.judgements(self._split)


def _require_file(path: str, setting: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            "the file does not exist",
            where=setting,
            expected="a file",
            got=f"{path}, in {Path.cwd()}" if not file.is_absolute() else path,
            next_step=f"correct {setting}",
        )
    return file


def _digest_file(path: Path | None) -> str | None:
    return rows_digest([(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns)]) if path else None
