"""Split: 80 % database, 20 % query, decided for each content group by a keyed hash and by nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from prefect import task

from configs.models import SplitConfig
from storage import tables
from storage.atomic import commit
from storage.digests import json_digest, unit_interval
from storage.records import Side, SplitDataset, ValidatedDataset
from storage.root import Root
from tasks.policy import REMEMBERED, StageCache

ITEMS = pa.schema(
    {"item_id": pa.int64(), "key": pa.string(), "label": pa.string(), "text": pa.string(), "path": pa.string()}
    | {"content_digest": pa.string(), "content_group": pa.string(), "side": pa.string()}
)


def side_of(group: str, config: SplitConfig) -> Side:
    """The side of a content group: query when its draw in [0, 1) is below the query fraction.

    It depends on the group and the seed alone. So an item never moves when others come or go, a build from scratch splits as the
    nightly ones did, and equal items stay together; in return the fractions hold on average, within each label too, not to the item.
    """
    return "query" if unit_interval(config.seed, group) < config.query_fraction else "database"


@task(name="split", cache_policy=StageCache(stage_version=1), **REMEMBERED)
def split(root: Root, dataset: ValidatedDataset, config: SplitConfig) -> SplitDataset:
    """The items with their side, and how many stand on each."""
    with root.scratch.staging() as staging:
        table = staging / "items.parquet"
        tables.write_parquet(table, ITEMS, _sided(root, dataset, config))
        counts = tables.rows(
            "SELECT count(*) FILTER (side = 'database'), count(*) FILTER (side = 'query'), count(DISTINCT label), "
            f"count(DISTINCT content_group) FROM read_parquet('{table}')",
            spill=root.tmp,
        )[0]
        content = tables.digest(table)
        digest = json_digest([content, dataset.base])
        folder = root.dataset(dataset.name, "split", digest)
        commit(table, folder / "items.parquet")
    ref = root.ref(folder / "items.parquet")
    record = SplitDataset(
        digest=digest, files=(ref,), name=dataset.name, modality=dataset.modality, base=dataset.base, labelled=dataset.labelled,
        content=content, database=counts[0], query=counts[1], labels=counts[2], groups=counts[3], table=ref,
    )  # fmt: skip
    root.write_record(folder / "manifest.json", record)
    return record


def _sided(root: Root, dataset: ValidatedDataset, config: SplitConfig) -> Iterator[pa.RecordBatch]:
    for batch in tables.read_batches(root.file(dataset.table)):
        sides = [side_of(group, config) for group in batch.column("content_group").to_pylist()]
        yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(sides)], schema=ITEMS)
