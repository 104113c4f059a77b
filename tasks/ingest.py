"""Ingest: list the source's items into one table, with an id and a content digest each."""

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
from indexmill.storage.atomic import commit
from indexmill.storage.digests import content_digest, item_id, json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Dataset, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.sources import Item, Source, open_source
from indexmill.tasks.sources.base import ScoredPair
from indexmill.tasks.stage_policy import get_task_options
from indexmill.tasks.validation.text_normalization import normalize_text

LISTING_SCHEMA = pa.schema(
    {"item_id": pa.int64(), "key": pa.string(), "label": pa.string(), "text": pa.string(), "path": pa.string()}
    | {"given_split": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64()}
)
ITEMS_SCHEMA = LISTING_SCHEMA.append(pa.field("content_digest", pa.string()))
INVENTORY_SCHEMA = pa.schema([ITEMS_SCHEMA.field(name) for name in ("path", "size", "mtime_ns", "content_digest")])
PAIRS_SCHEMA = pa.schema({"file": pa.string(), "split": pa.string(), "score": pa.float64(), "item_a": pa.int64(), "item_b": pa.int64()})
# What an item is; when and where its bytes were written is no part of it.
IDENTITY_COLUMNS = ["item_id", "key", "label", "text", "path", "given_split", "content_digest"]
# A file written this shortly before it was listed may be written again within one tick of the file system's clock.
MTIME_MARGIN_NS = 2_000_000_000


def revision(config: DatasetConfig, root: Root) -> str:
    """The source's present revision: what decides whether anything has to be listed anew."""
    return open_source(config, root).compute_revision()


@task(**get_task_options("ingest"))
def ingest(root: Root, name: str, config: DatasetConfig, revision: str, rehash: bool = False) -> Dataset:
    """The items of the source as a table sorted by item id, so that the order of listing means nothing.

    An image whose path, size and modification time are as on an earlier night is not read again, unless `rehash`.
    """
    source = open_source(config, root)
    image_root = str(source.image_root) if source.image_root else None
    with root.scratch.staging() as staging:
        listing, table = staging / "listing.parquet", staging / "items.parquet"
        listed_count = parquet.write_parquet(listing, LISTING_SCHEMA, _iterate_listing(source, config))
        if not listed_count:
            raise _build_empty_error(name, config, source)
        _check_collisions(listing, root)
        inventory = root.dataset_cache(name, f"inventory-{json_digest(image_root)[:8]}")
        started = time.time_ns()
        with parquet.query(_build_selection_sql(listing, config, None if rehash else inventory), temp_dir=root.tmp) as batches:
            items = parquet.write_parquet(
                table, ITEMS_SCHEMA, _add_digests(batches, source.image_root, min(listed_count, config.limit or listed_count))
            )
        missing = parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(table)} WHERE content_digest IS NULL", temp_dir=root.tmp)[0][0]
        pairs = staging / "pairs.parquet"
        scored = parquet.write_parquet(pairs, PAIRS_SCHEMA, _iterate_pairs(source.pairs()))
        digest = json_digest(
            [parquet.compute_digest(table, IDENTITY_COLUMNS), parquet.compute_digest(pairs), image_root, source.modality, source.labeled]
        )
        folder = root.dataset(name, "ingested", digest)
        if image_root:
            _save_inventory(root, table, inventory, started)
        if scored:
            commit(pairs, folder / "pairs.parquet")
        commit(table, folder / "items.parquet")
    ref = root.make_ref(folder / "items.parquet")
    pairs_ref = root.make_ref(folder / "pairs.parquet") if scored else None
    dataset = Dataset(
        digest=digest, files=drop_none(ref, pairs_ref), name=name, source=config.source, revision=revision, modality=source.modality,
        image_root=image_root, labeled=source.labeled, items=items, unread=missing, table=ref, pairs=pairs_ref,
    )  # fmt: skip
    root.write_record(folder / "manifest.json", dataset)
    return dataset


def unread(dataset: Dataset) -> str:
    """Why a remembered listing is worth another look: files that could not be read may be readable now, and look the same outside."""
    return f"{dataset.unread} files could not be read" if dataset.unread else ""


def drop_none(*refs: FileRef | None) -> tuple[FileRef, ...]:
    """The references that are not None."""
    return tuple(ref for ref in refs if ref is not None)


def _iterate_listing(source: Source, config: DatasetConfig) -> Iterator[pa.RecordBatch]:
    """The source's items but for the excluded labels, in batches."""
    excluded = frozenset(config.exclude_labels)
    wanted = (_make_row(item) for item in source.items() if item.label not in excluded)
    return _iterate_batches(wanted, LISTING_SCHEMA)


def _make_row(item: Item) -> dict[str, Any]:
    return {
        "item_id": item_id(item.key), "key": item.key, "label": item.label, "text": None if item.text is None else normalize_text(item.text),
        "path": item.path, "given_split": item.split, "size": item.size, "mtime_ns": item.mtime_ns,
    }  # fmt: skip


def _iterate_pairs(pairs: Iterable[ScoredPair]) -> Iterator[pa.RecordBatch]:
    rows = (
        {"file": pair.file, "split": pair.split, "score": pair.score, "item_a": item_id(pair.key_a), "item_b": item_id(pair.key_b)}
        for pair in pairs
    )
    return _iterate_batches(rows, PAIRS_SCHEMA)


def _iterate_batches(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    left = iter(rows)
    while chunk := list(itertools.islice(left, parquet.BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist(chunk, schema=schema)


def _build_selection_sql(listing: Path, config: DatasetConfig, inventory: Path | None) -> str:
    """The listing, sampled if a limit is set, sorted by id, with the content digests that the inventory knows."""
    chosen = f"SELECT * FROM {parquet.scan_sql(listing)}"
    if config.limit:
        chosen += f" ORDER BY md5('{config.sample_seed}/' || key), key LIMIT {config.limit}"
    if inventory is None or parquet.find_parquet_error(inventory, thorough=True):
        return f"SELECT *, NULL::VARCHAR AS content_digest FROM ({chosen}) ORDER BY item_id"
    known = f"LEFT JOIN {parquet.scan_sql(inventory)} i USING (path, size, mtime_ns)"
    columns = ", ".join(f"l.{column}" for column in LISTING_SCHEMA.names)
    return f"SELECT {columns}, i.content_digest FROM ({chosen}) l {known} ORDER BY l.item_id"


def _add_digests(batches: Iterator[pa.RecordBatch], image_root: Path | None, total: int) -> Iterator[pa.RecordBatch]:
    """The batches with the digest of every item's content; null for a lacking text or image, which validation rejects."""
    with track("reading items", total) as advance:
        for batch in batches:
            digests = [
                known or (_text_digest(text) if image_root is None else _file_digest(image_root / path) if path else None)
                for text, path, known in zip(*(batch.column(name).to_pylist() for name in ("text", "path", "content_digest")), strict=True)
            ]
            yield pa.RecordBatch.from_arrays([*batch.columns[:-1], pa.array(digests, pa.string())], schema=ITEMS_SCHEMA)
            advance(batch.num_rows)


def _text_digest(text: str | None) -> str | None:
    return None if text is None else content_digest(text.encode())


def _file_digest(path: Path) -> str | None:
    try:
        return content_digest(path.read_bytes())
    except (OSError, ValueError):  # ValueError: a name with a NUL in it
        return None


def _save_inventory(root: Root, table: Path, inventory: Path, started: int) -> None:
    """Keep what was read, but for files so fresh that their modification time does not prove that they stay as they are."""
    sql = (
        f"SELECT DISTINCT path, size, mtime_ns, content_digest FROM {parquet.scan_sql(table)} "
        f"WHERE content_digest IS NOT NULL AND mtime_ns < {started - MTIME_MARGIN_NS}"
    )
    with root.replace_atomically(inventory) as temporary, parquet.query(sql, temp_dir=root.tmp) as batches:
        parquet.write_parquet(temporary, INVENTORY_SCHEMA, batches)


def _check_collisions(listing: Path, root: Root) -> None:
    """Two items with one id cannot both be found again, so the build stops and names them."""
    sql = f"SELECT min(key), max(key), count(*) FROM {parquet.scan_sql(listing)} GROUP BY item_id HAVING count(*) > 1 LIMIT 1"
    for first, second, count in parquet.fetch_rows(sql, temp_dir=root.tmp):
        raise InputError(
            "two items have one key" if first == second else "two keys have one item id",
            where=f"key {first}" if first == second else f"keys {first} and {second}",
            expected="keys that are unique in the data set",
            got=f"{count} items with that id",
            next_step="rename one of them",
        )


def _build_empty_error(name: str, config: DatasetConfig, source: Source) -> InputError:
    return InputError(
        "the source has no items",
        where=f"dataset of {name}" + (f": {source.image_root}" if source.image_root else ""),
        expected="images (.jpg .png .webp .bmp .gif .tiff)" if source.modality == "image" else "texts",
        got="0 items" + (f" once {', '.join(config.exclude_labels)} are left out" if config.exclude_labels else ""),
        next_step="mend dataset.path" + (" or dataset.exclude_labels" if config.exclude_labels else ""),
    )
