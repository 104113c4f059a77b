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
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest, query_id
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality, QueryTable, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.sources.base import Item
from indexmill.tasks.sources.query_files import QuerySource, open_query_sources
from indexmill.tasks.stage_policy import get_task_options
from indexmill.tasks.validation.judgements import match_judgements, write_raw_judgements
from indexmill.tasks.validation.near_duplicates import LEAKS_SCHEMA, find_leaks
from indexmill.tasks.validation.pair_queries import write_caption_queries, write_image_queries
from indexmill.tasks.validation.query_checks import LISTED_SCHEMA, QUERIES_SCHEMA, check_queries
from indexmill.tasks.validation.text_normalization import normalize_text


def read_query_revision(config: OwnQueriesConfig, root: Root) -> str:
    """Return the revision of all query files, which decides whether they must be read again."""
    return json_digest({name: source.compute_revision() for name, source in open_query_sources(config, root).items()})


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
    reader = QueryReader(root, split, config)
    if config.dataset.queries == "pairs":
        tables = [reader.write_pairs()]
        tables += [reader.write_set(name, source) for name, source in open_query_sources(config, root).items() if name]
    else:
        tables = [reader.write_set(name, source) for name, source in open_query_sources(config, root).items()]
    digest = json_digest([split.digest, [_describe_table(table) for table in tables]])
    refs = [ref for table in tables for ref in (table.table, table.rejects, table.judgements) if ref]
    record = split.model_copy(update={"digest": digest, "files": (*split.files, *refs), "query_tables": tuple(tables)})
    root.write_record(root.dataset(split.name, "queries", digest) / "manifest.json", record)
    return record


@dataclass(frozen=True)
class QueryReader:
    """Writes the tables of one set of queries after another. The attributes are the arguments of `read_queries`."""

    root: Root
    split: SplitDataset
    config: OwnQueriesConfig

    def write_set(self, name: str, source: QuerySource) -> QueryTable:
        """Write the queries of a source, and the judgements that name them."""
        setting = f"evaluation.sets.{name}" if name else "dataset"
        with self.root.scratch.staging() as staging:
            listed, raw = staging / "listed.parquet", staging / "raw.parquet"
            read = parquet.write_parquet(listed, LISTED_SCHEMA, _iterate_queries(name, source.queries()))
            self._check_ids(listed, f"{setting}.queries")
            judged = write_raw_judgements(raw, source.judgements())
            if source.has_judgements and not judged:
                raise _build_empty_error(f"{setting}.judgements", "judgement")
            unjudged = self._count_unjudged(listed, raw) if source.has_judgements else 0
            if source.judged_only:
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
            return self._commit(name, staging, source.modality, image_root, counts | usable)

    def write_pairs(self) -> QueryTable:
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
        with self.root.scratch.staging() as staging:
            read = write(self.root.file(self.split.table), staging, temp_dir=self.root.tmp)
            if not read:
                raise _build_empty_error("dataset.queries = pairs", "caption")
            image_root = self.split.image_root if modality == "image" else None
            usable = self._check(staging / "listed.parquet", staging, modality, image_root, "dataset.queries")
            table = self._commit("", staging, modality, image_root, {"queries_read": read, "queries_unjudged": 0} | usable)
            return table.model_copy(update={"is_pairs": True})

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
        columns = "item_id, content_group, side"
        items, queries = parquet.scan_sql(self.root.file(self.split.table)), parquet.scan_sql(checked)
        parquet.copy_query(f"SELECT {columns} FROM {items} UNION ALL SELECT {columns} FROM {queries}", both, temp_dir=self.root.tmp)
        find_leaks(self.root, both, leaks, groups_are_hashes=is_image, max_distance=self.config.leak_distance)

    def _commit(self, name: str, staging: Path, modality: Modality, image_root: str | None, counts: dict[str, int]) -> QueryTable:
        files = {stem: path for stem in ("queries", "rejects", "judgements") if (path := staging / f"{stem}.parquet").exists()}
        contents = {stem: parquet.compute_digest(path) for stem, path in files.items()}
        folder = self.root.dataset(self.split.name, "queries", json_digest([name, image_root, contents]))
        for path in files.values():
            commit(path, folder / path.name)
        refs = {stem: self.root.make_ref(folder / path.name) for stem, path in files.items()}
        return QueryTable(
            name=name,
            modality=modality,
            image_root=image_root,
            table=refs["queries"],
            judgements=refs.get("judgements"),
            rejects=refs["rejects"],
            counts=counts,
        )


def _describe_table(table: QueryTable) -> list[Any]:
    judgements = table.judgements and table.judgements.sha256
    return [table.name, table.modality, table.image_root, table.table.sha256, judgements, table.rejects.sha256, table.counts]


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
