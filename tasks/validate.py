"""Validate: check every row, decode every new image, and write unusable items as rejects with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
from prefect import task

from indexmill.configs.models import ValidateConfig
from indexmill.storage import image_check_cache, parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.items_table import VALID_COLUMNS
from indexmill.storage.records import Dataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.tasks.progress import track
from indexmill.tasks.runner import LOCAL_RUNNER, Runner
from indexmill.tasks.stage_policy import TASK_POLICIES, get_task_options
from indexmill.tasks.validation import rejects
from indexmill.tasks.validation.image_checks import TRANSIENT_REASONS, check_images
from indexmill.tasks.validation.text_groups import KNOWN_GROUP, TextGroupCache, compute_text_group

ITEMS_SCHEMA = pa.schema(VALID_COLUMNS | {"perceptual_hash": pa.string()})


class CheckedRows(NamedTuple):
    """SQL for the rows that pass (ITEMS_SCHEMA) and for the rejects (REJECTS_SCHEMA)."""

    passing_sql: str
    rejected_sql: str


@task(**get_task_options("validate"))
def validate(root: Root, dataset: Dataset, config: ValidateConfig, runner: Runner = LOCAL_RUNNER) -> ValidatedDataset:
    """Write the rows that pass with their content groups, and the rejects with their reasons.

    Raises:
        InputError: More items are rejected than `validate.max_reject_fraction` allows, or all of them.
    """
    with root.scratch.staging() as staging:
        items_path, rejects_path = staging / "items.parquet", staging / "rejects.parquet"
        valid_rows = staging / "valid.parquet"
        checked = _check_rows(root, dataset, config, valid_rows, staging / "invalid.parquet")
        if dataset.image_root:
            failed_images = staging / "failed_images.parquet"
            checked = _check_images(root, dataset.image_root, config, checked, valid_rows, failed_images, runner)
        columns = ", ".join(ITEMS_SCHEMA.names)
        items = parquet.copy_query(f"SELECT {columns} FROM ({checked.passing_sql}) ORDER BY item_id", items_path, temp_dir=root.tmp)
        history_path = root.fetch(root.dataset_cache(dataset.name, "rejects"))
        counts = rejects.write_rejects(root, checked.rejected_sql, history_path, rejects_path)
        _check_reject_fraction(dataset, config, counts, _describe_first_reject(root, rejects_path) if counts else "")
        table_digests = [parquet.compute_digest(items_path), parquet.compute_digest(rejects_path, rejects.REJECT_IDENTITY)]
        pairs_sha256 = dataset.pairs and dataset.pairs.sha256
        identity = [dataset.image_root, dataset.modality, dataset.labeled, pairs_sha256, *table_digests]
        digest = json_digest(identity + ([dataset.skipped] if dataset.skipped else []))
        folder = root.dataset(dataset.name, "validated", digest)
        root.commit(rejects_path, folder / "rejects.parquet")
        root.commit(items_path, folder / "items.parquet")
    table_ref, rejects_ref = root.make_ref(folder / "items.parquet"), root.make_ref(folder / "rejects.parquet")
    validated = ValidatedDataset(
        digest=digest,
        files=(table_ref, rejects_ref),
        name=dataset.name,
        modality=dataset.modality,
        image_root=dataset.image_root,
        labeled=dataset.labeled,
        items=items,
        rejected=sum(counts.values()),
        rejected_by_reason=counts,
        skipped=dataset.skipped,
        table=table_ref,
        rejects=rejects_ref,
        pairs=dataset.pairs,
    )
    root.write_record(folder / "manifest.json", validated)
    return validated


def list_transient_reasons(validated: ValidatedDataset) -> str:
    """Return why a cached result is stale, or an empty text: some rejects have transient reasons."""
    return ", ".join(reason for reason in validated.rejected_by_reason if reason in TRANSIENT_REASONS)


def _check_rows(root: Root, dataset: Dataset, config: ValidateConfig, valid: Path, invalid: Path) -> CheckedRows:
    """Validate every row against the schema, in batches. Writes the tables `valid` and `invalid`."""
    table = root.file(dataset.table)
    known_groups = None if dataset.image_root else TextGroupCache(root, dataset.name, TASK_POLICIES["validate"].version)
    batches = known_groups.read_rows(table) if known_groups else parquet.read_batches(table)
    with parquet.open_writer(invalid, rejects.REJECTS_SCHEMA) as rejects_writer:
        parquet.write_parquet(valid, ITEMS_SCHEMA, _iterate_valid_rows(batches, dataset, config, rejects_writer))
    if known_groups:
        known_groups.save(valid)
    return CheckedRows(f"SELECT * FROM {parquet.scan_sql(valid)}", f"SELECT * FROM {parquet.scan_sql(invalid)}")


def _iterate_valid_rows(
    batches: Iterator[pa.RecordBatch], dataset: Dataset, config: ValidateConfig, rejects_writer: parquet.ParquetRowWriter
) -> Iterator[pa.RecordBatch]:
    """Yield the valid rows, texts with their content group, and write the others to `rejects_writer`."""
    from indexmill.tasks.validation.schema import build_items_schema, find_invalid_rows  # pandera is slow to import

    schema = build_items_schema(modality=dataset.modality, labeled=dataset.labeled, max_text_length=config.max_text_length)
    with track("checking rows", dataset.items) as advance:
        for frame in parquet.to_polars(batches):
            faults = {
                row: rejects.RejectReason(reason or ("malformed_row" if key else "empty_key"), fault)
                for row, (key, fault, reason) in enumerate(frame.select("key", "fault", "fault_reason").iter_rows())
                if fault
            }
            reject_reasons = find_invalid_rows(frame, schema) | faults
            numbered = frame.with_row_index("row")
            is_invalid = pl.col("row").is_in(list(reject_reasons))
            rejects_writer.write([_make_reject(row, reject_reasons[row["row"]]) for row in numbered.filter(is_invalid).to_dicts()])
            valid = numbered.filter(~is_invalid)
            groups = [None] * len(valid) if dataset.image_root else _find_text_groups(valid)
            columns = [pl.Series("content_group", groups, dtype=pl.String), pl.lit(None, pl.String).alias("perceptual_hash")]
            grouped = valid.with_columns(columns).select(ITEMS_SCHEMA.names)
            yield from grouped.to_arrow().cast(ITEMS_SCHEMA).to_batches()
            advance(len(frame))


def _find_text_groups(rows: pl.DataFrame) -> list[str]:
    return [known or compute_text_group(text) for known, text in rows.select(KNOWN_GROUP, "text").iter_rows()]


def _make_reject(row: dict[str, Any], reason: rejects.RejectReason) -> dict[str, Any]:
    return {**{name: row[name] for name in ("item_id", "key", "content_digest")}, "reason": reason.code, "message": reason.message}


def _check_images(
    root: Root, image_root: str, config: ValidateConfig, checked: CheckedRows, valid_rows: Path, failed_images: Path, runner: Runner
) -> CheckedRows:
    """Decode every image of the valid rows that is not cached, and turn the failed ones into rejects."""
    cache = check_images(root, config, image_root=image_root, items_path=valid_rows, transient_path=failed_images, runner=runner)
    cached_sql = cache.to_sql(image_check_cache.IMAGE_CHECK_SCHEMA)
    results = f"(SELECT * FROM {cached_sql} UNION ALL SELECT * FROM {parquet.scan_sql(failed_images)})"
    joined = f"({checked.passing_sql}) i JOIN {results} r ON r.content_digest = i.content_digest"
    passing = ", ".join(f"{'r' if name in ('content_group', 'perceptual_hash') else 'i'}.{name}" for name in ITEMS_SCHEMA.names)
    rejected = ", ".join(f"{'r' if name in ('reason', 'message') else 'i'}.{name}" for name in rejects.REJECTS_SCHEMA.names)
    return CheckedRows(
        passing_sql=f"SELECT {passing} FROM {joined} WHERE r.reason IS NULL",
        rejected_sql=f"{checked.rejected_sql} UNION ALL SELECT {rejected} FROM {joined} WHERE r.reason IS NOT NULL",
    )


def _describe_first_reject(root: Root, path: Path) -> str:
    """Describe one reject of the most frequent reason."""
    sql = f"SELECT key, message FROM {parquet.scan_sql(path)} ORDER BY count(*) OVER (PARTITION BY reason) DESC, reason, key LIMIT 1"
    key, message = parquet.fetch_rows(sql, temp_dir=root.tmp)[0]
    return f"{key}: {message}"


def _check_reject_fraction(dataset: Dataset, config: ValidateConfig, counts: dict[str, int], example: str) -> None:
    rejected = sum(counts.values())
    fraction = rejected / dataset.items
    if fraction > config.max_reject_fraction or rejected == dataset.items:
        by_reason = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]))
        raise InputError(
            "too many items are rejected",
            where=f"dataset of {dataset.name}" + (f": {dataset.image_root}" if dataset.image_root else ""),
            expected=f"at most {config.max_reject_fraction:.1%} rejected",
            got=f"{rejected} of {dataset.items} ({fraction:.1%}): {by_reason}; for example {example}",
            next_step="fix the items, or raise validate.max_reject_fraction"
            + ("; set dataset.downloads.allow_private: true to allow hosts of your own network" if "address_refused" in counts else ""),
        )
