"""Summarize a finished build for `indexmill build --json` and the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from indexmill.configs.models import PipelineConfig
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage import catalog
from indexmill.storage.index_records import TrainedIndex, TunedIndex
from indexmill.storage.records import Dataset, EmbeddingSet, Evaluation, Snapshot, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.exports.run import ExportResult
from indexmill.tasks.progress import track


@dataclass(frozen=True)
class BuildSummary:
    """One build in numbers.

    Args:
        name: The index.
        snapshot_id: The snapshot that the build made, or found unchanged.
        path: The snapshot's folder, absolute.
        report: Its HTML report, absolute.
        published: Whether the snapshot is now the live one.
        items: Items in the source, rejects included.
        database: Items on the database side.
        query: Items on the query side.
        rejected: Items that could not be used.
        skipped: Files below the folder that are no items, by suffix or kind.
        encoded: Distinct contents encoded by this build.
        reused: Distinct contents whose embeddings were already stored.
        truncated: Texts of which the encoder read only the beginning.
        chunks: Chunks that the texts were divided into; None if they were not.
        precision: The number format of the forward pass.
        precision_check: How it compares with float32; None if it was not checked.
        index: Factory, search parameters, and how they were chosen.
        stages: Seconds of each stage, and whether its result was cached.
        metrics: Means over queries.
        timings: Milliseconds and queries per second.
        exports: How each export of the pipeline went.
    """

    name: str
    snapshot_id: str
    path: str
    report: str
    published: bool
    items: int
    database: int
    query: int
    rejected: int
    skipped: dict[str, int]
    encoded: int
    reused: int
    truncated: int
    chunks: int | None
    precision: str
    precision_check: dict[str, Any] | None
    index: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, float]
    timings: dict[str, float]
    exports: list[ExportResult]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as `--json` prints it."""
        return asdict(self) | {"exports": [result.model_dump() for result in self.exports]}


def summarize_build(
    config: PipelineConfig,
    stages: StageRunner,
    *,
    dataset: Dataset,
    validated: ValidatedDataset,
    embeddings: EmbeddingSet,
    trained: TrainedIndex,
    tuned: TunedIndex,
    evaluation: Evaluation,
    snapshot: Snapshot,
    exports: list[ExportResult],
) -> BuildSummary:
    """Summarize a finished build from the records of its stages.

    The catalog is rebuilt first if it is missing or damaged.
    """
    root = stages.root
    _ensure_catalog(root)
    folder = root.path / snapshot.folder
    live = Snapshots(root, config.name).read_live_manifest()
    encoded = 0 if stages.runs["encode"].cached else embeddings.encoded
    return BuildSummary(
        name=config.name,
        snapshot_id=snapshot.snapshot_id,
        path=str(folder),
        report=str(folder / "report" / "report.html"),
        published=live is not None and live.content == snapshot.digest,
        items=dataset.items,
        database=embeddings.database,
        query=embeddings.query,
        rejected=validated.rejected + embeddings.rejected,
        skipped=validated.skipped,
        encoded=encoded,
        reused=embeddings.encoded + embeddings.reused - encoded,
        truncated=embeddings.truncated,
        chunks=embeddings.chunks.database + embeddings.chunks.query if embeddings.chunks else None,
        precision=embeddings.encoder["precision"],
        precision_check=embeddings.encoder.get("precision_check"),
        index=_describe_index(trained, tuned),
        stages={name: asdict(run) for name, run in stages.runs.items()},
        metrics=evaluation.metrics,
        timings=evaluation.timings,
        exports=exports,
    )


def _ensure_catalog(root: Root) -> None:
    if root.catalog.exists() and not catalog.find_catalog_damage(root):
        return
    with track("rebuilding the catalog, which is missing or damaged", 1) as advance:
        catalog.rebuild(root)
        advance(1)


def _describe_index(trained: TrainedIndex, tuned: TunedIndex) -> dict[str, Any]:
    return {
        "factory": trained.factory,
        "rerank": trained.rerank,
        "params": {name: value for name, value in tuned.params.model_dump().items() if value},
        "training": trained.reason,
        "tuning": tuned.reason,
        "target": tuned.target,
        "met": tuned.met,
        "recall_bound": tuned.recall_bound,
        "latency_met": tuned.latency_met,
    }
