"""Ingest: list the source's items in one table, each with an id and a content digest."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task

from indexmill.configs.datasets import DatasetConfig
from indexmill.storage import parquet
from indexmill.storage.contents import is_image_root_there, read_content_digest
from indexmill.storage.digests import content_digest, item_id, json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.items_table import LISTED_COLUMNS
from indexmill.storage.records import Dataset, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.sources import Item, Source, open_source
from indexmill.tasks.sources.base import ScoredPair
from indexmill.tasks.sources.image_downloads import ImageDownloads, RemoteImage
from indexmill.tasks.stage_policy import get_task_options
from indexmill.tasks.validation.image_formats import describe_readable_formats
from indexmill.tasks.validation.text_normalization import normalize_text

ITEM_COLUMNS = LISTED_COLUMNS | {"size": pa.int64(), "mtime_ns": pa.int64(), "fault": pa.string()}
# URLs stay in the listing, which is temporary: they may be signed.
LISTING_SCHEMA = pa.schema(ITEM_COLUMNS | {"url": pa.string(), "version": pa.string(), "content_digest": pa.string()})
ITEMS_SCHEMA = pa.schema(ITEM_COLUMNS | {"fault_reason": pa.string(), "content_digest": pa.string()})
INVENTORY_SCHEMA = pa.schema([ITEMS_SCHEMA.field(name) for name in ("path", "size", "mtime_ns", "content_digest")])
PAIRS_SCHEMA = pa.schema({"file": pa.string(), "split": pa.string(), "score": pa.float64(), "item_a": pa.int64(), "item_b": pa.int64()})
# The columns that define an item. Size and modification time do not.
IDENTITY_COLUMNS = ["item_id", "key", "label", "text", "path", "given_split", "fault", "content_digest"]
# A file modified less than this before its listing may change again within one tick of the file system's clock.
MTIME_MARGIN_NS = 2_000_000_000


@task(**get_task_options("ingest"))
def ingest(root: Root, name: str, config: DatasetConfig, revision: str, rehash: bool = False) -> Dataset:
    """List the source's items as a table sorted by item id, so the order of listing does not matter.

    Args:
        root: The storage root.
        name: The pipeline's name.
        config: The data set's config.
        revision: The source's revision, part of the cache key.
        rehash: Read every image again. Otherwise an image whose path, size and modification time are unchanged is not
            read.
    """
    source = open_source(config, root, relist=rehash)
    image_root = str(source.image_root) if source.image_root else None
    with root.scratch.staging() as staging:
        listing, table, pairs = (staging / f"{stem}.parquet" for stem in ("listing", "items", "pairs"))
        listed_count = parquet.write_parquet(listing, LISTING_SCHEMA, _iterate_listing(source, config))
        if not listed_count:
            raise _build_empty_error(name, config, source)
        _check_collisions(listing, root, key_column=getattr(config, "key_column", None))
        inventory = root.fetch(root.dataset_cache(name, f"inventory-{json_digest(image_root)[:8]}"))
        started_ns = time.time_ns()
        sql = _build_selection_sql(listing, config, None if rehash else inventory)
        if downloads := getattr(source, "downloads", None):
            downloads.check_space(_sum_sizes(root, f"SELECT size FROM ({sql}) WHERE version IS NOT NULL AND content_digest IS NULL"))
        with parquet.query(sql, temp_dir=root.tmp) as batches:
            total = min(listed_count, config.limit or listed_count)
            items = parquet.write_parquet(table, ITEMS_SCHEMA, _add_digests(batches, source, total))
        skipped = dict(sorted(getattr(source, "skipped", {}).items()))
        unreadable_files = _count_missing_digests(root, table)
        copies = f"SELECT DISTINCT path, size FROM {parquet.scan_sql(table)} WHERE content_digest IS NOT NULL"
        downloaded_bytes = _sum_sizes(root, copies) if downloads else 0
        pair_count = parquet.write_parquet(pairs, PAIRS_SCHEMA, _iterate_pairs(source.pairs()))
        digest = json_digest(
            [parquet.compute_digest(table, IDENTITY_COLUMNS), parquet.compute_digest(pairs), image_root, source.modality, source.labeled]
            + ([skipped] if skipped else [])
        )
        folder = root.dataset(name, "ingested", digest)
        if image_root:
            _save_inventory(root, table, inventory, started_ns)
        if pair_count:
            root.commit(pairs, folder / "pairs.parquet")
        root.commit(table, folder / "items.parquet")
    table_ref = root.make_ref(folder / "items.parquet")
    pairs_ref = root.make_ref(folder / "pairs.parquet") if pair_count else None
    dataset = Dataset(
        digest=digest,
        files=drop_none(table_ref, pairs_ref),
        name=name,
        source=config.source,
        revision=revision,
        modality=source.modality,
        image_root=image_root,
        labeled=source.labeled,
        items=items,
        unreadable_files=unreadable_files,
        downloaded_bytes=downloaded_bytes,
        skipped=skipped,
        table=table_ref,
        pairs=pairs_ref,
    )
    root.write_record(folder / "manifest.json", dataset)
    return dataset


def describe_stale_listing(dataset: Dataset) -> str:
    """Return why a cached listing is stale, or an empty text.

    Files that could not be read may be readable now, and another machine that shares the root has no images of its own yet.
    """
    if dataset.image_root and not is_image_root_there(dataset.image_root):
        return f"there is no folder {dataset.image_root}"
    return f"{dataset.unreadable_files} files could not be read" if dataset.unreadable_files else ""


def drop_none(*refs: FileRef | None) -> tuple[FileRef, ...]:
    """Return the references that are not None."""
    return tuple(ref for ref in refs if ref is not None)


def _iterate_listing(source: Source, config: DatasetConfig) -> Iterator[pa.RecordBatch]:
    """Yield the source's items without the excluded labels, in batches."""
    excluded_labels = frozenset(config.exclude_labels)
    rows = (_make_row(item) for item in source.items() if item.label not in excluded_labels)
    return _iterate_batches(rows, LISTING_SCHEMA)


def _make_row(item: Item) -> dict[str, Any]:
    return {
        "item_id": item_id(item.key),
        "key": item.key,
        "label": item.label,
        "text": None if item.text is None else normalize_text(item.text),
        "path": item.path,
        "given_split": item.split,
        "size": item.size,
        "mtime_ns": item.mtime_ns,
        "fault": item.fault,
        "content_digest": item.content_digest,
        "url": item.url,
        "version": item.version,
    }


def _iterate_pairs(pairs: Iterable[ScoredPair]) -> Iterator[pa.RecordBatch]:
    rows = (
        {"file": pair.file, "split": pair.split, "score": pair.score, "item_a": item_id(pair.key_a), "item_b": item_id(pair.key_b)}
        for pair in pairs
    )
    return _iterate_batches(rows, PAIRS_SCHEMA)


def _iterate_batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    remaining = iter(rows)
    while batch := list(itertools.islice(remaining, parquet.BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(batch, schema=schema)


def _build_selection_sql(listing: Path, config: DatasetConfig, inventory: Path | None) -> str:
    """Build SQL for the listing, sampled up to the limit, sorted by id, with the content digests of the source or the inventory."""
    selected = f"SELECT * FROM {parquet.scan_sql(listing)}"
    if config.limit:
        selected += f" ORDER BY md5('{config.sample_seed}/' || key), key LIMIT {config.limit}"
    if inventory is None or parquet.find_parquet_error(inventory, thorough=True):
        return f"SELECT * FROM ({selected}) ORDER BY item_id"
    inventory_join = f"LEFT JOIN {parquet.scan_sql(inventory)} i USING (path, size, mtime_ns)"
    replaced = "l.* REPLACE (coalesce(l.content_digest, i.content_digest) AS content_digest)"
    return f"SELECT {replaced} FROM ({selected}) l {inventory_join} ORDER BY l.item_id"


def _add_digests(batches: Iterator[pa.RecordBatch], source: Source, total: int) -> Iterator[pa.RecordBatch]:
    """Add every item's content digest to the batches; null for a missing text or image, which validation rejects."""
    image_root, downloads = source.image_root, getattr(source, "downloads", None)
    with track("downloading and reading items" if downloads else "reading items", total) as advance:
        for listed in batches:
            batch, reasons = _download_images(downloads, listed) if downloads else (listed, [None] * listed.num_rows)
            texts, paths, digests = (batch.column(name).to_pylist() for name in ("text", "path", "content_digest"))
            if image_root is None:
                digests = [digest or _digest_text(text) for digest, text in zip(digests, texts, strict=True)]
            else:
                digests = [digest or read_content_digest(image_root, path) for digest, path in zip(digests, paths, strict=True)]
            columns = [*(batch.column(name) for name in ITEM_COLUMNS), pa.array(reasons, pa.string()), pa.array(digests, pa.string())]
            yield pa.RecordBatch.from_arrays(columns, schema=ITEMS_SCHEMA)
            advance(batch.num_rows)


def _download_images(downloads: ImageDownloads, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[str | None]]:
    """Download the images of a batch that are not here.

    Returns:
        The batch with the sizes and times of the copies, or why an image is missing, and the reason's code of each row.
    """
    rows = batch.to_pylist()
    remote = [row for row in rows if row["url"] and row["path"]]
    failures = downloads.fetch_images(RemoteImage(row["url"], row["path"], row["mtime_ns"], row["version"]) for row in remote)
    for row in remote:
        if failure := failures.get(row["path"]):
            row |= {"fault": str(failure), "content_digest": None}
            continue
        status = (downloads.folder / row["path"]).stat()
        if (row["size"], row["mtime_ns"]) != (status.st_size, status.st_mtime_ns):
            row |= {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "content_digest": None}
    reasons = [failures[row["path"]].reason if row["path"] in failures else None for row in rows]
    return pa.RecordBatch.from_pylist(rows, schema=batch.schema), reasons


def _digest_text(text: str | None) -> str | None:
    return None if text is None else content_digest(text.encode())


def _count_missing_digests(root: Root, table: Path) -> int:
    sql = f"SELECT count(*) FROM {parquet.scan_sql(table)} WHERE content_digest IS NULL AND (fault IS NULL OR fault_reason IS NOT NULL)"
    return int(parquet.fetch_rows(sql, temp_dir=root.tmp)[0][0])


def _sum_sizes(root: Root, sql: str) -> int:
    return int(parquet.fetch_rows(f"SELECT coalesce(sum(size), 0) FROM ({sql})", temp_dir=root.tmp)[0][0])


def _save_inventory(root: Root, table: Path, inventory: Path, started_ns: int) -> None:
    """Save the files' digests, except for files so new that they may change without a new modification time."""
    sql = (
        f"SELECT DISTINCT path, size, mtime_ns, content_digest FROM {parquet.scan_sql(table)} "
        f"WHERE content_digest IS NOT NULL AND mtime_ns < {started_ns - MTIME_MARGIN_NS}"
    )
    with root.replace_atomically(inventory) as temporary, parquet.query(sql, temp_dir=root.tmp) as batches:
        parquet.write_parquet(temporary, INVENTORY_SCHEMA, batches)


def _check_collisions(listing: Path, root: Root, *, key_column: str | None) -> None:
    """Raise InputError if two items share an id, since a search result could not be traced back to one of them.

    Items without a key are rejected by validation, however many they are.
    """
    sql = (
        f"SELECT min(key), max(key), count(*) FROM {parquet.scan_sql(listing)} WHERE key <> '' GROUP BY item_id HAVING count(*) > 1 LIMIT 1"
    )
    for first, second, count in parquet.fetch_rows(sql, temp_dir=root.tmp):
        raise InputError(
            "two items have the same key" if first == second else "two keys have the same item id",
            where=(f"dataset.key_column = {key_column}, " if key_column else "")
            + (f"key {first}" if first == second else f"keys {first} and {second}"),
            expected="keys that are unique in the data set",
            got=f"{count} items with that id",
            next_step="name a column of unique values in dataset.key_column, or rename one of them" if key_column else "rename one of them",
        )


def _build_empty_error(name: str, config: DatasetConfig, source: Source) -> InputError:
    return InputError(
        "the source has no items",
        where=f"dataset of {name}" + (f": {source.image_root}" if source.image_root else ""),
        expected=f"images ({describe_readable_formats()})" if source.modality == "image" else "texts",
        got="0 items" + (f" after excluding {', '.join(config.exclude_labels)}" if config.exclude_labels else ""),
        next_step="correct dataset.path" + (" or dataset.exclude_labels" if config.exclude_labels else ""),
    )
