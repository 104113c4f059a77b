"""Validate: check every row, open every image, set aside what cannot be used with the reason why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from prefect import task

from configs.models import ValidateConfig
from storage import tables
from storage.atomic import commit
from storage.digests import content_digest, json_digest
from storage.errors import InputError
from storage.records import Dataset, ValidatedDataset
from storage.root import Root
from tasks.checks.decoder import Request
from tasks.checks.decoding import Decoders, Group
from tasks.checks.images import Limits, UnreadableImage
from tasks.checks.items import items_schema, row_rejects, text_group
from tasks.policy import REMEMBERED, StageCache
from tasks.progress import track

ITEMS = pa.schema(
    {"item_id": pa.int64(), "key": pa.string(), "label": pa.string(), "text": pa.string(), "path": pa.string()}
    | {"content_digest": pa.string(), "content_group": pa.string()}
)
REJECTS = pa.schema(
    {"item_id": pa.int64(), "key": pa.string(), "reason": pa.string(), "message": pa.string(), "content_digest": pa.string()}
)

Row = dict[str, Any]


@task(name="validate", cache_policy=StageCache(stage_version=2, libraries=("pillow", "ImageHash")), **REMEMBERED)
def validate(root: Root, dataset: Dataset, config: ValidateConfig) -> ValidatedDataset:
    """The rows that pass, each with its content group, and those that do not, each with its reason."""
    reasons: Counter[str] = Counter()
    with root.scratch.staging() as staging:
        passed, rejected = staging / "items.parquet", staging / "rejects.parquet"
        with tables.open_writer(rejected, REJECTS) as rejects:
            items = tables.write_parquet(passed, ITEMS, _passing(root, dataset, config, rejects, reasons))
        _stop_past_budget(dataset, config, reasons)
        digest = json_digest([dataset.base, dataset.modality, dataset.labelled, tables.digest(passed), tables.digest(rejected)])
        folder = root.dataset(dataset.name, "validated", digest)
        commit(rejected, folder / "rejects.parquet")
        commit(passed, folder / "items.parquet")
    table, rejects_ref = root.ref(folder / "items.parquet"), root.ref(folder / "rejects.parquet")
    validated = ValidatedDataset(
        digest=digest, files=(table, rejects_ref), name=dataset.name, modality=dataset.modality, base=dataset.base,
        labelled=dataset.labelled, items=items, rejected=reasons.total(), rejected_by_reason=dict(sorted(reasons.items())),
        table=table, rejects=rejects_ref,
    )  # fmt: skip
    root.write_record(folder / "manifest.json", validated)
    return validated


def _passing(
    root: Root, dataset: Dataset, config: ValidateConfig, rejects: tables.Writer, reasons: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """The rows that pass, batch by batch; the others go to `rejects` and are counted in `reasons`."""
    schema = items_schema(modality=dataset.modality, labelled=dataset.labelled, max_text_length=config.max_text_length)
    limits = Limits(config.max_pixels, config.min_side, config.max_aspect_ratio)
    doing = "opening images" if dataset.base else "checking texts"
    with track(doing, dataset.items) as advance, Decoders(limits, config.seconds_per_item) as decoders:
        for frame in tables.frames(tables.read_batches(root.file(dataset.table), batch_rows=1024)):
            failures = row_rejects(frame, schema)
            sound = [row for number, row in enumerate(frame.to_dicts()) if number not in failures]
            failed = [(row, *failures[number]) for number, row in enumerate(frame.to_dicts()) if number in failures]
            passed: list[Row] = []
            for row, group in zip(sound, _groups(sound, dataset.base, decoders), strict=True):
                if isinstance(group, UnreadableImage):
                    failed.append((row, group.reason, str(group)))
                else:
                    passed.append({**row, "content_group": group})
            reasons.update(reason for _, reason, _ in failed)
            rejects.write([{**_identity(row), "reason": reason, "message": message} for row, reason, message in failed])
            yield pa.RecordBatch.from_pylist(passed, schema=ITEMS)
            advance(len(frame))


def _groups(rows: list[Row], base: str | None, decoders: Decoders) -> Iterator[Group]:
    """What items equal in normalised text, or in perceptual hash, have in common; the problem of an image without."""
    if base is not None:
        return decoders.groups(Request(str(Path(base) / row["path"]), row["content_digest"]) for row in rows)
    # A text of punctuation alone has nothing left to compare: it is a group with its exact equals.
    return (content_digest((text_group(row["text"]) or row["text"]).encode()) for row in rows)


def _identity(row: Row) -> Row:
    return {name: row[name] for name in ("item_id", "key", "content_digest")}


def _stop_past_budget(dataset: Dataset, config: ValidateConfig, reasons: Counter[str]) -> None:
    share = reasons.total() / dataset.items
    if share > config.max_reject_fraction or reasons.total() == dataset.items:
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        raise InputError(
            "too many items cannot be used",
            where=f"dataset of {dataset.name}" + (f": {dataset.base}" if dataset.base else ""),
            expected=f"at most {config.max_reject_fraction:.1%} rejected",
            got=f"{reasons.total()} of {dataset.items} ({share:.1%}): {counts}",
            next_step="mend the items, or raise validate.max_reject_fraction",
        )
