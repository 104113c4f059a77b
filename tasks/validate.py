"""Validate: check every row, open every new image, set aside what cannot be used with the reason why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
from prefect import task

from indexmill.configs.models import ValidateConfig
from indexmill.storage import image_check_cache, parquet
from indexmill.storage.atomic import commit
from indexmill.storage.digests import content_digest, json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import Dataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.stage_policy import get_task_options
from indexmill.tasks.validation import rejects
from indexmill.tasks.validation.image_checks import TRANSIENT_REASONS, check_images
from indexmill.tasks.validation.schema import build_items_schema, find_invalid_rows
from indexmill.tasks.validation.text_normalization import normalize_for_grouping

ITEMS_SCHEMA = pa.schema(
    {"item_id": pa.int64(), "key": pa.string(), "label": pa.string(), "text": pa.string(), "path": pa.string()}
    | {"given_split": pa.string(), "content_digest": pa.string(), "content_group": pa.string()}
)

RejectRow = dict[str, Any]


@task(**get_task_options("validate"))
def validate(root: Root, dataset: Dataset, config: ValidateConfig) -> ValidatedDataset:
    """The rows that pass, each with its content group, and those that do not, each with its reason."""
    with root.scratch.staging() as staging:
        passed, rejected = staging / "items.parquet", staging / "rejects.parquet"
        passing_sql, rejected_sql = _check_rows(root, dataset, config, staging)
        if dataset.image_root:
            passing_sql, rejected_sql = _check_images(root, dataset.image_root, config, staging, passing_sql, rejected_sql)
        items = parquet.copy_query(f"SELECT {', '.join(ITEMS_SCHEMA.names)} FROM ({passing_sql}) ORDER BY item_id", passed, temp_dir=root.tmp)
        reasons = rejects.write_rejects(root, rejected_sql, root.dataset_cache(dataset.name, "rejects"), rejected)
        _check_reject_budget(dataset, config, reasons)
        found = [parquet.compute_digest(passed), parquet.compute_digest(rejected, rejects.REJECT_IDENTITY)]
        digest = json_digest([dataset.image_root, dataset.modality, dataset.labeled, dataset.pairs and dataset.pairs.sha256, *found])
        folder = root.dataset(dataset.name, "validated", digest)
        commit(rejected, folder / "rejects.parquet")
        commit(passed, folder / "items.parquet")
    table, rejects_ref = root.make_ref(folder / "items.parquet"), root.make_ref(folder / "rejects.parquet")
    validated = ValidatedDataset(
        digest=digest, files=(table, rejects_ref), name=dataset.name, modality=dataset.modality, image_root=dataset.image_root,
        labeled=dataset.labeled, items=items, rejected=sum(reasons.values()), rejected_by_reason=reasons, table=table,
        rejects=rejects_ref, pairs=dataset.pairs,
    )  # fmt: skip
    root.write_record(folder / "manifest.json", validated)
    return validated


def list_transient_reasons(validated: ValidatedDataset) -> str:
    """Why a remembered verdict is worth another look: rejects that say more about the moment than about the image."""
    return ", ".join(reason for reason in validated.rejected_by_reason if reason in TRANSIENT_REASONS)


def _check_rows(root: Root, dataset: Dataset, config: ValidateConfig, staging: Path) -> tuple[str, str]:
    """Hold every row against the schema, a batch at a time. Returns SQL for the rows that pass, and for those that do not."""
    valid, failed = staging / "sound.parquet", staging / "failed.parquet"
    with parquet.open_writer(failed, rejects.REJECTS_SCHEMA) as failures:
        parquet.write_parquet(valid, ITEMS_SCHEMA, _iterate_valid_rows(root, dataset, config, failures))
    return f"SELECT * FROM {parquet.scan_sql(valid)}", f"SELECT * FROM {parquet.scan_sql(failed)}"


def _iterate_valid_rows(
    root: Root, dataset: Dataset, config: ValidateConfig, failures: parquet.ParquetRowWriter
) -> Iterator[pa.RecordBatch]:
    """The rows that the schema lets through; the others go to `failures`. Texts get their group here."""
    schema = build_items_schema(modality=dataset.modality, labeled=dataset.labeled, max_text_length=config.max_text_length)
    with track("checking rows", dataset.items) as advance:
        for frame in parquet.to_polars(parquet.read_batches(root.file(dataset.table))):
            reject_reasons = find_invalid_rows(frame, schema)
            numbered = frame.with_row_index("row")
            failing = pl.col("row").is_in(list(reject_reasons))
            failures.write([_make_reject(row, *reject_reasons[row["row"]]) for row in numbered.filter(failing).to_dicts()])
            valid = numbered.filter(~failing)
            groups = [None if dataset.image_root else _compute_text_group(text) for text in valid["text"]]
            grouped = valid.with_columns(pl.Series("content_group", groups, dtype=pl.String)).select(ITEMS_SCHEMA.names)
            yield from grouped.to_arrow().cast(ITEMS_SCHEMA).to_batches()
            advance(len(frame))


def _compute_text_group(text: str) -> str:
    """Texts alike but for case, punctuation and spacing are one group. One of punctuation alone is a group with its exact equals."""
    return content_digest((normalize_for_grouping(text) or text).encode())


def _make_reject(row: RejectRow, reason: str, message: str) -> RejectRow:
    return {**{name: row[name] for name in ("item_id", "key", "content_digest")}, "reason": reason, "message": message}


def _check_images(root: Root, image_root: str, config: ValidateConfig, staging: Path, sound_sql: str, failed_sql: str) -> tuple[str, str]:
    """The same two, once every image among the sound rows has been opened, tonight or earlier."""
    failed_images = staging / "unopened.parquet"
    known = check_images(root, config, Path(image_root), staging / "sound.parquet", failed_images)
    results = f"(SELECT * FROM {known.to_sql(image_check_cache.IMAGE_CHECK_SCHEMA)} UNION ALL SELECT * FROM {parquet.scan_sql(failed_images)})"
    opened = f"({sound_sql}) s JOIN {results} o ON o.content_digest = s.content_digest"
    passed = ", ".join(f"{'o' if name == 'content_group' else 's'}.{name}" for name in ITEMS_SCHEMA.names)
    failed = ", ".join(f"{'o' if name in ('reason', 'message') else 's'}.{name}" for name in rejects.REJECTS_SCHEMA.names)
    return (
        f"SELECT {passed} FROM {opened} WHERE o.reason IS NULL",
        f"{failed_sql} UNION ALL SELECT {failed} FROM {opened} WHERE o.reason IS NOT NULL",
    )


def _check_reject_budget(dataset: Dataset, config: ValidateConfig, reasons: dict[str, int]) -> None:
    rejected = sum(reasons.values())
    share = rejected / dataset.items
    if share > config.max_reject_fraction or rejected == dataset.items:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda pair: -pair[1]))
        raise InputError(
            "too many items cannot be used",
            where=f"dataset of {dataset.name}" + (f": {dataset.image_root}" if dataset.image_root else ""),
            expected=f"at most {config.max_reject_fraction:.1%} rejected",
            got=f"{rejected} of {dataset.items} ({share:.1%}): {counts}",
            next_step="mend the items, or raise validate.max_reject_fraction",
        )
