"""Split: assign items to the database or query side by a keyed hash of their content group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from prefect import task

from indexmill.configs.models import SplitConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest, unit_interval
from indexmill.storage.items_table import VALID_COLUMNS
from indexmill.storage.records import Side, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.tasks.stage_policy import get_task_options
from indexmill.tasks.validation.near_duplicates import find_leaks

SIDED_SCHEMA = pa.schema(VALID_COLUMNS | {"perceptual_hash": pa.string(), "side": pa.string()})

BY_LABEL_SQL = (
    "SELECT label, count(*) AS items, count(*) FILTER (side = 'database') AS database, count(*) FILTER (side = 'query') AS query, "
    "count(*) FILTER (side = 'query') / count(*) AS query_fraction FROM {table} GROUP BY label ORDER BY label NULLS FIRST"
)
COUNTS_SQL = (
    "SELECT count(*) FILTER (side = 'database') AS database, count(*) FILTER (side = 'query') AS query, "
    "count(DISTINCT label) AS labels, count(DISTINCT content_group) AS groups, "
    "(SELECT count(*) FROM (SELECT content_group FROM {table} GROUP BY 1 HAVING count(DISTINCT label) > 1)) AS conflicts, "
    "count(*) FILTER (leak) AS leaks FROM {table}"
)


def choose_side(group: str, given_split: str | None, config: SplitConfig) -> Side:
    """Return the side of an item.

    By hash, an item is a query if its group's draw in [0, 1) is below the query fraction. The draw depends on the group
    and the seed alone, so an item never moves when others are added or removed, a build from scratch splits as the
    nightly builds did, and equal items stay together. In return the fractions hold on average, also within a label, but
    not exactly. Small labels get no special rule, since their items would move as the label grows; `by_label`
    records what each label got.

    Args:
        group: The item's content group.
        given_split: The split that the data set assigns the item to, for mode `given`.
        config: The split's mode, seed, query fraction and query splits.
    """
    match config.mode:
        case "none":
            return "database"
        case "given":
            return "query" if given_split in config.query_splits else "database"
        case "hash":
            return "query" if unit_interval(config.seed, group) < config.query_fraction else "database"


@task(**get_task_options("split"))
def split(root: Root, dataset: ValidatedDataset, config: SplitConfig) -> SplitDataset:
    """Write the items with their side and leak flag, the leaking pairs, and the counts per label and side."""
    with root.scratch.staging() as staging:
        sided, leaks, table, by_label = (staging / f"{name}.parquet" for name in ("sided", "leaks", "items", "by_label"))
        parquet.write_parquet(sided, SIDED_SCHEMA, _assign_sides(root, dataset, config))
        find_leaks(root, sided, leaks, by_hash=dataset.image_root is not None, max_distance=config.leak_distance)
        parquet.copy_query(_build_leak_sql(sided, leaks), table, temp_dir=root.tmp)
        parquet.copy_query(BY_LABEL_SQL.format(table=parquet.scan_sql(table)), by_label, temp_dir=root.tmp)
        database, query, labels, groups, conflicts, leak_count = parquet.fetch_rows(
            COUNTS_SQL.format(table=parquet.scan_sql(table)), temp_dir=root.tmp
        )[0]
        content = parquet.compute_digest(table)
        digest = json_digest([content, config.leaks, dataset.image_root, dataset.pairs and dataset.pairs.sha256])
        folder = root.dataset(dataset.name, "split", digest)
        for path in (leaks, by_label, table):
            root.commit(path, folder / path.name)
    refs = {name: root.make_ref(folder / f"{name}.parquet") for name in ("items", "by_label", "leaks")}
    record = SplitDataset(
        digest=digest,
        files=tuple(refs.values()),
        name=dataset.name,
        modality=dataset.modality,
        image_root=dataset.image_root,
        labeled=dataset.labeled,
        content=content,
        database=database,
        query=query,
        labels=labels,
        groups=groups,
        conflicts=conflicts,
        leaks=leak_count,
        table=refs["items"],
        by_label=refs["by_label"],
        pairs=dataset.pairs,
    )
    root.write_record(folder / "manifest.json", record)
    return record


def _assign_sides(root: Root, dataset: ValidatedDataset, config: SplitConfig) -> Iterator[pa.RecordBatch]:
    for batch in parquet.read_batches(root.file(dataset.table)):
        groups, given_splits = (batch.column(name).to_pylist() for name in ("content_group", "given_split"))
        sides = [choose_side(group, given_split, config) for group, given_split in zip(groups, given_splits, strict=True)]
        yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(sides, pa.string())], schema=SIDED_SCHEMA)


def _build_leak_sql(sided: Path, leaks: Path) -> str:
    """Build SQL for the items with `leak`: true for a query that is a near duplicate of a database item."""
    leaking = f"SELECT DISTINCT query_id FROM {parquet.scan_sql(leaks)}"
    return f"SELECT * EXCLUDE perceptual_hash, item_id IN ({leaking}) AS leak FROM {parquet.scan_sql(sided)} ORDER BY item_id"
