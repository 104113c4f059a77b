"""What became of the items: those with a vector, and those without with the reason why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from indexmill.storage import tables
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.embeddings import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import FileRef
from indexmill.storage.root import Root
from indexmill.tasks.checks.rejects import SCHEMA


@dataclass(frozen=True)
class Outcome:
    """content: digest of the rows with a vector. rejects: None when every item has one. contents: how many distinct ones."""

    content: str
    items: FileRef
    rejects: FileRef | None
    rejected: int
    database: int
    query: int
    contents: int


def settle_items(root: Root, name: str, items: Path, store: EmbeddingStore, failed: Path, max_reject_fraction: float) -> Outcome:
    """Part the items' table by whether the store has a vector for them; past the budget of rejects, raise InputError.

    failed: a table of contents that could not be encoded this time. A table already under the root is kept when all its items passed.
    """
    without = f"(SELECT * FROM {store.rejected_sql()} UNION SELECT * FROM {tables.parquet(failed)})"
    wanted = ", ".join(f"{'r' if column in ('reason', 'message') else 'i'}.{column}" for column in SCHEMA.names)
    rejected_sql = f"SELECT {wanted} FROM {tables.parquet(items)} i JOIN {without} r USING (content_digest) ORDER BY i.item_id"
    reasons = dict(tables.rows(f"SELECT reason, count(*) FROM ({rejected_sql}) GROUP BY 1 ORDER BY 2 DESC", spill=root.tmp))
    total = int(tables.rows(f"SELECT count(*) FROM {tables.parquet(items)}", spill=root.tmp)[0][0])
    _stop_past_budget(name, reasons, total, max_reject_fraction)
    rejects = None
    if reasons or not items.is_relative_to(root.path / "datasets"):
        items, rejects = _parted(root, name, items, without, rejected_sql if reasons else None)
    counted = "SELECT count(*) FILTER (side = 'database'), count(*) FILTER (side = 'query'), count(DISTINCT content_digest)"
    database, query, contents = tables.rows(f"{counted} FROM {tables.parquet(items)}", spill=root.tmp)[0]
    rejected = sum(reasons.values())
    return Outcome(tables.digest(items), root.ref(items), rejects, rejected, database, query, contents)


def _parted(root: Root, name: str, items: Path, without: str, rejected_sql: str | None) -> tuple[Path, FileRef | None]:
    """The items that have a vector as a table of their own, and the others beside it."""
    with root.scratch.staging() as staging:
        table, rejects = staging / "items.parquet", staging / "rejects.parquet"
        tables.copy(
            f"SELECT * FROM {tables.parquet(items)} ANTI JOIN {without} USING (content_digest) ORDER BY item_id", table, spill=root.tmp
        )
        digest = tables.digest(table)
        if rejected_sql:
            tables.copy(rejected_sql, rejects, spill=root.tmp)
            digest = json_digest([digest, tables.digest(rejects)])
            commit(rejects, root.dataset(name, "encoded", digest) / rejects.name)
        folder = root.dataset(name, "encoded", digest)
        commit(table, folder / table.name)
    return folder / table.name, root.ref(folder / rejects.name) if rejected_sql else None


def _stop_past_budget(name: str, reasons: dict[str, int], total: int, max_reject_fraction: float) -> None:
    rejected = sum(reasons.values())
    if rejected > max_reject_fraction * total or rejected == total:
        raise InputError(
            "too many items have no vector that can be searched",
            where=f"dataset of {name}",
            expected=f"at most {max_reject_fraction:.1%} rejected",
            got=f"{rejected} of {total} ({rejected / total:.1%}): " + ", ".join(f"{reason} {count}" for reason, count in reasons.items()),
            next_step="try encoder.precision=float32 or another encoder, or raise validate.max_reject_fraction",
        )
