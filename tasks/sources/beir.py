"""A retrieval data set in BEIR's layout, on disk or on the Hugging Face Hub.

On disk: corpus.jsonl (`_id`, `title`, `text`), queries.jsonl (`_id`, `text`), qrels/SPLIT.tsv. On the hub also compressed (.gz), or
as Parquet files in folders of these names, whose key column may be called `id`; `BeIR/NAME` keeps its judgements in a data set of
their own, `BeIR/NAME-qrels`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from indexmill.configs.datasets import BeirDatasetConfig
from indexmill.storage.digests import json_digest, rows_digest
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.hub_files import is_commit_hash
from indexmill.tasks.progress import track
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.base import Item, ScoredPair
from indexmill.tasks.sources.downloads import make_slug, read_pin, write_pin
from indexmill.tasks.sources.judgements import Judgement, read_judgements
from indexmill.tasks.sources.table_cells import TableRow
from indexmill.tasks.sources.table_reader import TableFormat, list_columns, read_rows

if TYPE_CHECKING:
    from indexmill.tasks.sources.hf_hub import HubDataset

TABLE_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
QRELS_SUFFIXES = (".tsv", *TABLE_SUFFIXES)
QRELS_FOLDERS = ("qrels", "data", "default", "")  # BEIR's, and those of data sets that the hub converted


class BeirSource:
    """The documents of a corpus, with their queries and judgements. The hub is contacted only when a file is read."""

    modality: Modality = "text"
    image_root: Path | None = None
    labeled = False

    def __init__(self, config: BeirDatasetConfig, root: Root, retry_policy: RetryPolicy | None = None) -> None:
        self._config, self._root, self._retry_policy = config, root, retry_policy or RetryPolicy()

    def compute_revision(self) -> str:
        """Return a digest of the corpus's files, or of the commits that `dataset.revision` points to now."""
        if self._config.path is not None:
            return _digest_files(self._find_tables("corpus"))
        names = dict.fromkeys((str(self._config.id), self._qrels_id))
        return json_digest([(name, self._resolve_commit(name)) for name in names])

    def compute_query_revision(self, split: str) -> str:
        """Return a digest of the files of queries and judgements, or of the commits."""
        if self._config.path is not None:
            return _digest_files([*self._find_tables("queries"), *self._find_qrels(split)])
        return self.compute_revision()

    def items(self) -> Iterator[Item]:
        """Yield the documents: title and text joined by a space, as BEIR does."""
        for file in self._find_tables("corpus"):
            for row in self._read_rows(file, ("title", "text")):
                key, title, text = row.cells
                if row.fault:
                    yield Item(key=f"{file.name}:line {row.line}", fault=row.fault)
                else:
                    yield Item(key=key or "", text=f"{title or ''} {text or ''}".strip())

    def pairs(self) -> Iterator[ScoredPair]:
        """Yield nothing: a corpus has no scored pairs."""
        return iter(())

    def queries(self) -> Iterator[Item]:
        """Yield every query, of all splits."""
        for file in self._find_tables("queries"):
            for row in self._read_rows(file, ("text",)):
                key, text = row.cells
                yield Item(key=f"{file.name}:line {row.line}", fault=row.fault) if row.fault else Item(key=key or "", text=text or "")

    def judgements(self, split: str) -> Iterator[Judgement]:
        """Yield the judgements of a split."""
        for file in self._find_qrels(split):
            yield from read_judgements(file)

    @property
    def _qrels_id(self) -> str:
        name = str(self._config.id)
        return self._config.qrels_id or (f"{name}-qrels" if name.startswith("BeIR/") else name)

    @cached_property
    def _folder(self) -> Path:
        if self._config.path is None:
            return self._download(str(self._config.id))
        return Path(self._config.path.replace("{root}", str(self._root.path))).expanduser()

    @cached_property
    def _qrels_folder(self) -> Path:
        return self._folder if self._config.path is not None or self._qrels_id == self._config.id else self._download(self._qrels_id)

    def _find_tables(self, name: str) -> list[Path]:
        """Find the files of `corpus` or `queries`. Of files by split, only those of the configured split."""
        alone = [path for suffix in TABLE_SUFFIXES if (path := self._folder / f"{name}{suffix}").is_file()]
        if alone:
            return alone[:1]
        files = sorted(path for path in (self._folder / name).glob("*") if path.name.endswith(TABLE_SUFFIXES))
        of_split = [path for path in files if path.name.startswith((f"{self._config.split}-", f"{self._config.split}."))]
        if not files:
            raise self._build_missing_error(self._folder, f"{name}.jsonl")
        return of_split or files

    def _find_qrels(self, split: str) -> list[Path]:
        for folder in (self._qrels_folder / name for name in QRELS_FOLDERS):
            alone = [path for suffix in QRELS_SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
            if files := alone[:1] or sorted(folder.glob(f"{split}-*.parquet")):
                return files
        raise self._build_missing_error(self._qrels_folder, f"qrels/{split}.tsv")

    def _read_rows(self, file: Path, columns: tuple[str, ...]) -> Iterator[TableRow]:
        """Yield the id and these columns of every row; a column that the file lacks, such as the title, is null."""
        table_format = cast("TableFormat", file.name.removesuffix(".gz").rpartition(".")[2])
        existing = list_columns(file, table_format, {"_id", *columns})
        key = next((name for name in ("_id", "id") if name in existing), None)
        if key is None or "text" not in existing:
            raise InputError(
                "a file of the data set lacks a column",
                where=str(file),
                expected="_id and text",
                got=", ".join(existing),
                next_step="correct the file, or use source jsonl or parquet with dataset.queries and dataset.judgements",
            )
        names = [column if column in existing else None for column in columns]
        return read_rows(file, table_format, (key, *names))

    def _resolve_commit(self, name: str) -> str:
        """Return the commit that the revision points to now, and pin it."""
        revision = self._config.revision
        try:
            commit = self._open_hub(name).resolve_commit(revision)
        except SourceUnreachable:
            if not is_commit_hash(revision):
                raise
            commit = revision
        write_pin(self._root, make_slug("beir", name), revision, commit)
        return commit

    def _download(self, name: str) -> Path:
        commit = read_pin(self._root, make_slug("beir", name), self._config.revision) or self._resolve_commit(name)
        with track(f"downloading {name}", 1) as advance:
            folder = self._open_hub(name).download(commit)
            advance(1)
        return folder

    def _open_hub(self, name: str) -> HubDataset:
        from indexmill.tasks.sources.hf_hub import HubDataset  # slow to import: only its users pay for it

        return HubDataset(name, self._root.huggingface, self._retry_policy)

    def _build_missing_error(self, folder: Path, file: str) -> InputError:
        config = self._config
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())[:20] if folder.is_dir() else []
        return InputError(
            f"the data set has no {file}",
            where=f"dataset.path = {config.path}" if config.path else f"dataset.id = {config.id}",
            expected="corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv",
            got=", ".join(found) or ("no files" if folder.is_dir() else f"no folder {folder}"),
            next_step="correct dataset.path, dataset.id or dataset.split",
        )


def _digest_files(files: list[Path]) -> str:
    """Digest names, sizes and modification times."""
    return rows_digest((file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)
