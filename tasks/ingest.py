"""Ingest: list the source's items into one table, with an id and a content digest each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from prefect import task

from configs.models import DatasetConfig
from storage import tables
from storage.atomic import commit
from storage.digests import content_digest, item_id, json_digest
from storage.errors import InputError
from storage.records import Dataset
from storage.root import Root
from tasks.checks.items import normalised
from tasks.policy import REMEMBERED, RETRIED, StageCache
from tasks.progress import track
from tasks.sources import Item, Source, open_source

LISTING = pa.schema({"item_id": pa.int64(), "key": pa.string(), "label": pa.string(), "text": pa.string(), "path": pa.string()})
ITEMS = LISTING.append(pa.field("content_digest", pa.string()))


def revision(config: DatasetConfig, root: Root) -> str:
    """The source's present revision: what decides whether anything has to be listed anew."""
    return open_source(config, root).revision()


@task(name="ingest", cache_policy=StageCache(stage_version=1), **RETRIED, **REMEMBERED)
def ingest(root: Root, name: str, config: DatasetConfig, revision: str) -> Dataset:
    """The items of the source as a table sorted by item id, so that the order of listing means nothing."""
    source = open_source(config, root)
    with root.scratch.staging() as staging:
        listing, table = staging / "listing.parquet", staging / "items.parquet"
        listed = tables.write_parquet(listing, LISTING, _listing(source, config))
        if not listed:
            raise _no_items(name, config, source)
        _refuse_collisions(listing, root)
        with tables.query(_chosen_sql(listing, config), spill=root.tmp) as batches:
            items = tables.write_parquet(table, ITEMS, _digested(batches, source.base, min(listed, config.limit or listed)))
        base = str(source.base) if source.base else None
        digest = json_digest([tables.digest(table), base, source.modality, source.labelled])
        folder = root.dataset(name, "ingested", digest)
        commit(table, folder / "items.parquet")
    ref = root.ref(folder / "items.parquet")
    dataset = Dataset(
        digest=digest, files=(ref,), name=name, source=config.source, revision=revision, modality=source.modality,
        base=base, labelled=source.labelled, items=items, table=ref,
    )  # fmt: skip
    root.write_record(folder / "manifest.json", dataset)
    return dataset


def _listing(source: Source, config: DatasetConfig) -> Iterator[pa.RecordBatch]:
    """The source's items but for the excluded labels, in batches."""
    excluded = frozenset(config.exclude_labels)
    wanted = (item for item in source.items() if item.label not in excluded)
    while chunk := list(itertools.islice(wanted, tables.BATCH_ROWS)):
        yield pa.RecordBatch.from_pylist([_row(item) for item in chunk], schema=LISTING)


def _row(item: Item) -> dict[str, object]:
    text = None if item.text is None else normalised(item.text)
    return {"item_id": item_id(item.key), "key": item.key, "label": item.label, "text": text, "path": item.path}


def _chosen_sql(listing: Path, config: DatasetConfig) -> str:
    chosen = f"SELECT * FROM read_parquet('{listing}')"
    if config.limit:
        chosen += f" ORDER BY md5('{config.sample_seed}/' || key), key LIMIT {config.limit}"
    return f"SELECT * FROM ({chosen}) ORDER BY item_id"


def _digested(batches: Iterator[pa.RecordBatch], base: Path | None, total: int) -> Iterator[pa.RecordBatch]:
    """The batches with the digest of every item's content; null for an image that cannot be opened, which validation rejects."""
    with track("reading items", total) as advance:
        for batch in batches:
            digests = [
                content_digest(text.encode()) if base is None else _file_digest(base / path)
                for text, path in zip(batch.column("text").to_pylist(), batch.column("path").to_pylist(), strict=True)
            ]
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(digests, pa.string())], schema=ITEMS)
            advance(batch.num_rows)


def _file_digest(path: Path) -> str | None:
    try:
        return content_digest(path.read_bytes())
    except OSError:
        return None


def _refuse_collisions(listing: Path, root: Root) -> None:
    """Two items with one id cannot both be found again, so the build stops and names them."""
    sql = f"SELECT min(key), max(key), count(*) FROM read_parquet('{listing}') GROUP BY item_id HAVING count(*) > 1 LIMIT 1"
    for first, second, count in tables.rows(sql, spill=root.tmp):
        raise InputError(
            "two items have one key" if first == second else "two keys have one item id",
            where=f"key {first}" if first == second else f"keys {first} and {second}",
            expected="keys that are unique in the data set",
            got=f"{count} items with that id",
            next_step="rename one of them",
        )


def _no_items(name: str, config: DatasetConfig, source: Source) -> InputError:
    return InputError(
        "the source has no items",
        where=f"dataset of {name}" + (f": {source.base}" if source.base else ""),
        expected="images (.jpg .png .webp .bmp .gif .tiff)" if source.modality == "image" else "texts",
        got="0 items" + (f" once {', '.join(config.exclude_labels)} are left out" if config.exclude_labels else ""),
        next_step="mend dataset.path" + (" or dataset.exclude_labels" if config.exclude_labels else ""),
    )
