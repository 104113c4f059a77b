"""Queries: read the queries of one's own and their judgements, and check both against the items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task

from indexmill.configs.models import OwnQueriesConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest, query_id
from indexmill.storage.errors import InputError
from indexmill.storage.image_check_cache import IMAGE_CHECK_SCHEMA, ImageCheckCache
from indexmill.storage.records import Modality, QueryTable, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.judgements import write_judgements
from indexmill.tasks.sources.query_files import QuerySource, open_query_sources
from indexmill.tasks.stage_policy import get_task_options
from indexmill.tasks.validation.image_checks import compute_policy_digest
from indexmill.tasks.validation.judgements import match_judgements
from indexmill.tasks.validation.near_duplicates import LEAKS_SCHEMA, find_leaks
from indexmill.tasks.validation.pair_queries import write_caption_queries, write_image_queries
from indexmill.tasks.validation.query_checks import LISTED_SCHEMA, QUERIES_SCHEMA, check_queries
from indexmill.tasks.validation.text_normalization import normalize_text

TABLES = ("queries", "rejects", "judgements")


@task(**get_task_options("queries"))
def read_queries(root: Root, split: SplitDataset, config: OwnQueriesConfig, revision: str) -> SplitDataset:  # noqa: ARG001 (part of the cache key)
    """Return the record of the items with one table of queries per set.

    Args:
        root: The storage root.
        split: The items, all on the database side.
        config: Which queries to read.
        revision: The revision of the files, part of the cache key.

    Raises:
        InputError: A file is malformed, two queries have the same id, no query can be used, or no judgement names a query and an item.
    """
    sources = open_query_sources(config, root)
    with root.scratch.staging() as staging:
        reader = QueryReader(root, split, config, staging)
        written = [reader.write_pairs()] if config.dataset.queries == "pairs" else []
        written += [reader.write_set(name, source) for name, source in sources.items()]
        digest = json_digest([split.digest, [query_set.describe() for query_set in written]])
        folder = root.dataset(split.name, "queries", digest)
        tables = tuple(_commit_set(root, query_set, folder) for query_set in written)
    refs = tuple(ref for table in tables for ref in (table.table, table.rejects, table.judgements) if ref)
    update = {"digest": digest, "files": (*split.files, *refs), "query_tables": tables, "items_digest": split.digest}
    record = split.model_copy(update=update)
    root.write_record(folder / "manifest.json", record)
    return record


@dataclass(frozen=True)
class WrittenSet:
    """One set of queries in a folder of its own: queries.parquet, rejects.parquet and, if there are any, judgements.parquet."""

    name: str
    folder: Path
    modality: Modality
    image_root: str | None
    counts: dict[str, int]
    is_pairs: bool = False

    @property
    def files(self) -> dict[str, Path]:
        """The files that exist, by their names without the ending."""
        return {stem: path for stem in TABLES if (path := self.folder / f"{stem}.parquet").exists()}

    def describe(self) -> list[Any]:
        """Everything that identifies the set, for the digest of the record."""
        contents = {stem: parquet.compute_digest(path) for stem, path in self.files.items()}
        return [self.name, self.modality, self.image_root, self.counts, self.is_pairs, contents]


@dataclass(frozen=True)
class QueryReader:
    """Writes the tables of one set of queries after another, each in a folder below `staging`."""

    root: Root
    split: SplitDataset
    config: OwnQueriesConfig
    staging: Path

    def write_set(self, name: str, source: QuerySource) -> WrittenSet:
        """Write the queries of a source, and the judgements that name them."""
        setting, staging = f"evaluation.sets.{name}" if name else "dataset", self._make_folder(name)
        listed, raw = staging / "listed.parquet", staging / "raw.parquet"
        read = parquet.write_parquet(listed, LISTED_SCHEMA, _iterate_queries(name, source.queries()))
        self._check_ids(listed, f"{setting}.queries")
        judged = write_judgements(raw, source.judgements())
        if source.has_judgements and not judged:
            raise _build_empty_error(f"{setting}.judgements", "judgement")
        unjudged = self._count_unjudged(listed, raw) if source.has_judgements else 0
        if source.judged_only and unjudged < read:  # if no id matches, `match_judgements` says so
            listed = self._drop_unjudged(listed, raw, staging)
        image_root = str(source.image_root) if source.image_root else None
        usable = self._check(listed, staging, source.modality, image_root, f"{setting}.queries")
        counts = {"queries_read": read, "queries_unjudged": unjudged}
        if source.has_judgements:
            counts |= match_judgements(
                raw,
                staging / "queries.parquet",
                self.root.file(self.split.table),
                staging / "judgements.parquet",
                where=f"{setting}.judgements",
                temp_dir=self.root.tmp,
            )
        return WrittenSet(name, staging, source.modality, image_root, counts | usable)

    def write_pairs(self) -> WrittenSet:
        """Write the captions as queries for their images, or with an index of captions the images as queries for them."""
        if self.split.modality != "image":
            raise InputError(
                "there are no pairs of images and captions",
                where="dataset.queries = pairs",
                expected="images with captions",
                got=f"{self.split.modality}s",
                next_step="set dataset.image_column and dataset.text_column, or name a file of queries",
            )
        modality: Modality = "image" if self.config.modality == "text" else "text"
        write = write_image_queries if modality == "image" else write_caption_queries
        staging = self._make_folder("")
        read = write(self.root.file(self.split.table), staging, temp_dir=self.root.tmp)
        if not read:
            raise _build_empty_error("dataset.queries = pairs", "caption")
        image_root = self.split.image_root if modality == "image" else None
        usable = self._check(staging / "listed.parquet", staging, modality, image_root, "dataset.queries")
        return WrittenSet("", staging, modality, image_root, {"queries_read": read, "queries_unjudged": 0} | usable, is_pairs=True)

    def _make_folder(self, name: str) -> Path:
        folder = self.staging / (name or "_main")  # no set can have this name
        folder.mkdir()
        return folder

    def _check_ids(self, listed: Path, setting: str) -> None:
        sql = f"SELECT key, count(*) FROM {parquet.scan_sql(listed)} GROUP BY item_id, key HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
        for key, count in parquet.fetch_rows(sql, temp_dir=self.root.tmp):
            raise InputError(
                "two queries have the same id",
                where=setting,
                expected="ids that are unique in the set",
                got=f"{count} queries {key!r}",
                next_step="rename one of them, or remove it",
            )

    def _count_unjudged(self, listed: Path, raw: Path) -> int:
        sql = f"SELECT count(*) FROM {parquet.scan_sql(listed)} q ANTI JOIN {parquet.scan_sql(raw)} j ON j.query = q.key"
        return int(parquet.fetch_rows(sql, temp_dir=self.root.tmp)[0][0])

    def _drop_unjudged(self, listed: Path, raw: Path, staging: Path) -> Path:
        target = staging / "judged.parquet"
        sql = f"SELECT q.* FROM {parquet.scan_sql(listed)} q SEMI JOIN {parquet.scan_sql(raw)} j ON j.query = q.key"
        parquet.copy_query(sql, target, temp_dir=self.root.tmp)
        return target

    def _check(self, listed: Path, staging: Path, modality: Modality, image_root: str | None, setting: str) -> dict[str, int]:
        """Write the usable queries and the rejects; count both, and the queries that leak if leaks are looked for."""
        if not parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(listed)}", temp_dir=self.root.tmp)[0][0]:
            raise _build_empty_error(setting, "query")
        rejected = check_queries(self.root, self.config.limits, listed, staging, modality=modality, image_root=image_root)
        checked, leaks = staging / "checked.parquet", staging / "leaks.parquet"
        if self.config.leaks == "exclude" and modality == self.split.modality:
            self._find_leaks(checked, staging / "both.parquet", leaks, is_image=modality == "image")
        else:
            parquet.write_parquet(leaks, LEAKS_SCHEMA, [])
        columns = ", ".join(QUERIES_SCHEMA.names)
        leak = f"item_id IN (SELECT query_id FROM {parquet.scan_sql(leaks)}) AS leak"
        sql = f"SELECT {columns}, {leak} FROM {parquet.scan_sql(checked)} ORDER BY item_id"
        usable = parquet.copy_query(sql, staging / "queries.parquet", temp_dir=self.root.tmp)
        if not usable:
            raise InputError(
                "no query can be used",
                where=setting,
                expected="a text or an image in at least one row",
                got=", ".join(f"{reason} {count}" for reason, count in rejected.items()),
                next_step=f"correct {setting}",
            )
        leaking = parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(leaks)}", temp_dir=self.root.tmp)[0][0]
        return {"queries": usable, "queries_rejected": sum(rejected.values()), "queries_leaking": int(leaking)}

    def _find_leaks(self, checked: Path, both: Path, leaks: Path, *, is_image: bool) -> None:
        columns = "item_id, content_digest, content_group, side"
        items, queries = parquet.scan_sql(self.root.file(self.split.table)), parquet.scan_sql(checked)
        sql = f"SELECT {columns} FROM {items} UNION ALL SELECT {columns} FROM {queries}"
        if is_image:
            cache = ImageCheckCache(self.root, compute_policy_digest(self.config.limits))
            hashes = f"(SELECT DISTINCT content_digest, perceptual_hash FROM {cache.to_sql(IMAGE_CHECK_SCHEMA)})"
            sql = f"SELECT * FROM ({sql}) JOIN {hashes} USING (content_digest)"
        parquet.copy_query(sql, both, temp_dir=self.root.tmp)
        find_leaks(self.root, both, leaks, by_hash=is_image, max_distance=self.config.leak_distance)


def _commit_set(root: Root, query_set: WrittenSet, folder: Path) -> QueryTable:
    """Move the files of a set into the folder of all sets; those of a further set carry its name."""
    suffix = f"-{query_set.name}" if query_set.name else ""
    refs = {}
    for stem, path in query_set.files.items():
        target = folder / f"{stem}{suffix}.parquet"
        root.commit(path, target)
        refs[stem] = root.make_ref(target)
    return QueryTable(
        name=query_set.name,
        modality=query_set.modality,
        image_root=query_set.image_root,
        table=refs["queries"],
        judgements=refs.get("judgements"),
        rejects=refs["rejects"],
        is_pairs=query_set.is_pairs,
        counts=query_set.counts,
    )


def _iterate_queries(set_name: str, queries: Iterable[Item]) -> Iterator[pa.RecordBatch]:
    """Yield the queries in batches, texts in their normal form."""
    remaining = iter(queries)
    while batch := list(islice(remaining, parquet.BATCH_ROWS)):
        rows = [
            {
                "item_id": query_id(set_name, query.key),
                "key": query.key,
                "text": None if query.text is None else normalize_text(query.text),
                "path": query.path,
            }
            for query in batch
        ]
        yield pa.RecordBatch.from_pylist(rows, schema=LISTED_SCHEMA)


def _build_empty_error(setting: str, noun: str) -> InputError:
    return InputError(f"there is no {noun}", where=setting, expected=f"at least one {noun}", got="none", next_step=f"correct {setting}")
