"""Summarize a finished build for `indexmill build --json` and the terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from indexmill.configs.models import PipelineConfig
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage import catalog
from indexmill.storage.index_records import TrainedIndex, TunedIndex
from indexmill.storage.records import Dataset, EmbeddingSet, Evaluation, Snapshot, ValidatedDataset
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.progress import track


@dataclass(frozen=True)
class BuildSummary:
    """One build in figures. encoded and reused count distinct contents; path and report are absolute."""

    name: str
    snapshot_id: str
    path: str
    report: str
    published: bool
    items: int
    database: int
    query: int
    rejected: int
    encoded: int
    reused: int
    truncated: int
    precision: str
    precision_check: dict[str, Any] | None
    index: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    metrics: dict[str, float]
    timings: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """The summary as `--json` prints it."""
        return asdict(self)


def summarize_build(
    config: PipelineConfig, stages: StageRunner, dataset: Dataset, validated: ValidatedDataset,
    embeddings: EmbeddingSet, trained: TrainedIndex, tuned: TunedIndex, evaluation: Evaluation, snapshot: Snapshot,
) -> BuildSummary:  # fmt: skip
    """The summary of a finished build. `published`: whether its snapshot is the live one now."""
    root = stages.root
    if not root.catalog.exists() or catalog.find_catalog_damage(root):
        with track("making the catalog anew, which was gone or damaged", 1) as advance:
            catalog.rebuild(root)
            advance(1)
    folder = root.path / snapshot.folder
    encoded = 0 if stages.runs["encode"].cached else embeddings.encoded
    return BuildSummary(
        name=config.name, snapshot_id=snapshot.snapshot_id, path=str(folder), report=str(folder / "report" / "report.html"),
        published=Snapshots(root, config.name).get_live_id() == snapshot.snapshot_id, items=dataset.items, database=embeddings.database,
        query=embeddings.query, rejected=validated.rejected + embeddings.rejected, truncated=embeddings.truncated,
        precision=embeddings.encoder["precision"], precision_check=embeddings.encoder.get("precision_check"),
        index=_describe_index(trained, tuned),
        encoded=encoded, reused=embeddings.encoded + embeddings.reused - encoded,
        stages={name: asdict(run) for name, run in stages.runs.items()}, metrics=evaluation.metrics, timings=evaluation.timings,
    )  # fmt: skip


def _describe_index(trained: TrainedIndex, tuned: TunedIndex) -> dict[str, Any]:
    """What the index is, how it is searched, and why."""
    params = {name: value for name, value in tuned.params.model_dump().items() if value}
    tuning_fields = {"target": tuned.target, "met": tuned.met, "recall_bound": tuned.recall_bound, "latency_met": tuned.latency_met}
    return {
        "factory": trained.factory,
        "rerank": trained.rerank,
        "params": params,
        "training": trained.reason,
        "tuning": tuned.reason,
    } | tuning_fields
