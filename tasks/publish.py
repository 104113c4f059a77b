"""Publish: evaluate the gate, add the query side, write the report, assemble one snapshot and swap the pointer."""

from __future__ import annotations

import json
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from indexmill.configs.models import PipelineConfig
from indexmill.storage import catalog, metrics_file
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import PublishRefused
from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef, Snapshot, SplitDataset, ValidatedDataset  # fmt: skip
from indexmill.storage.retention import apply_retention
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.autofaiss_info import build_index_infos
from indexmill.tasks.indexing.shard_store import list_shard_paths, name_snapshot_files
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards
from indexmill.tasks.publishing.gate import verdict as ask
from indexmill.tasks.publishing.manifest import build_manifest
from indexmill.tasks.publishing.report import report
from indexmill.tasks.publishing.served_shards import served as serve
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("publish"))
def publish(
    root: Root, config: PipelineConfig, validated: ValidatedDataset, split: SplitDataset, embeddings: EmbeddingSet,
    trained: TrainedIndex, shards: IndexShards, tuned: TunedIndex, evaluation: Evaluation, force: str | None, seconds: dict[str, float],
) -> Snapshot:  # fmt: skip
    """The new live snapshot. When the gate objects, the snapshot is kept and marked, the live one stays, and Refused is raised.

    force: the reason for publishing it all the same, which the manifest keeps. seconds: of the stages before, for the report.
    """
    snapshots = Snapshots(root, config.name)
    build = BuildCandidate(
        root, config, validated, split, embeddings, trained, shards, tuned, evaluation, snapshots.read_live_manifest(), force, seconds
    )
    served = serve(build)
    content = json_digest(
        [config.model_dump(mode="json"), [shard.key for shard in served.shards], served.rejects.sha256, evaluation.digest, split.digest]
    )
    snapshot_id = snapshots.assign_id(content)
    verdict = ask(build, served, snapshot_id)
    manifest = build_manifest(build, served.shards, snapshot_id, content, verdict.failed_rules)
    build_report = report(build, served, manifest, verdict)
    sources = _list_snapshot_files(build, served, build_report.files)
    pool_files = sorted(
        {ref.path for ref in (*build_report.files.values(), evaluation.report_data, evaluation.ground_truth, sources["index_infos.json"])}
    )
    named_files = tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items())
    manifest = manifest.model_copy(update={"files": named_files, "pool_files": _list_pool_files(build, served, pool_files)})
    snapshots.assemble(manifest, sources)
    metrics_file.archive_metrics(root, config.name, snapshot_id, build_report.files["report/metrics.json"])
    if manifest.verdict == "published":
        snapshots.publish(snapshot_id)
    apply_retention(snapshots, config.publish.keep, config.publish.keep_days)
    catalog.rebuild(root)
    folder = snapshots.get_path(snapshot_id)
    create_build_artifacts(build_report.build_metrics, folder / "report")
    if manifest.verdict == "refused":
        raise _make_refused_error(manifest, f"{folder / 'report' / 'report.html'}")
    files = tuple(root.make_ref(folder / name) for name in (*sources, "manifest.json"))
    return Snapshot(
        digest=content, files=files, snapshot_id=snapshot_id, parent=manifest.parent, folder=folder.relative_to(root.path).as_posix(),
        items=manifest.items,
    )  # fmt: skip


def _make_refused_error(manifest: Manifest, report: str) -> PublishRefused:
    return PublishRefused(
        "the gate refused this build; the live snapshot stays",
        where=f"publish.gate of {manifest.name}",
        got="; ".join(manifest.failed_rules),
        next_step=f"see {report}; indexmill build {manifest.name} --force REASON publishes it all the same",
    )


def _list_snapshot_files(build: BuildCandidate, served: ServedShards, build_report: dict[str, FileRef]) -> dict[str, FileRef]:
    """Name in the snapshot -> the file that it is."""
    files = {name: ref for number, shard in enumerate(served.shards) for name, ref in name_snapshot_files(shard, number).items()}
    files |= {"items.parquet": build.embeddings.items, "rejects.parquet": served.rejects, "labels.parquet": build.split.by_label}
    if build.embeddings.captions:
        files["captions.parquet"] = build.embeddings.captions.items
    if build.split.pairs:
        files["pairs.parquet"] = build.split.pairs
    return files | build_report | {"index_infos.json": _write_index_infos(build, served)}


def _write_index_infos(build: BuildCandidate, served: ServedShards) -> FileRef:
    """index_infos.json beside the evaluation's tables."""
    target = build.root.file(build.evaluation.per_query).with_name("index_infos.json")
    infos = build_index_infos(
        build.config.index, [f"shard-{number:05d}.faiss" for number in range(len(served.shards))],
        size=sum(shard.index.size for shard in served.shards), vectors=served.items, dim=build.index_embeddings.dim, lists=build.trained.lists,
        timings=build.evaluation.timings, baseline=build.trained.baseline,
    )  # fmt: skip
    build.root.scratch.write_text(target, json.dumps(infos, indent=2) + "\n")
    return build.root.make_ref(target)


def _list_pool_files(build: BuildCandidate, served: ServedShards, figures: list[str]) -> tuple[str, ...]:
    """The files under the root that a snapshot needs kept."""
    root, name, trained = build.root, build.config.name, build.trained
    record = root.trained_path(name, trained.digest, "json").relative_to(root.path).as_posix()
    paths = [record, trained.index.path, trained.rows.path, *figures]
    return tuple(sorted([*paths, *(path for shard in served.shards for path in list_shard_paths(root, name, shard))]))


def create_build_artifacts(figures: MetricsFile, folder: Path) -> None:
    """`build-index-NAME`: report.md; `build-index-NAME-figures`: a row a measure; `build-index-NAME-report`: a link to report.html.

    folder: where the report lies. Verdict and snapshot stand in the description of each.
    """
    key, description = f"build-index-{figures.name}", f"{figures.verdict}: {figures.name} {figures.snapshot_id}"
    create_markdown_artifact((folder / "report.md").read_text(encoding="utf-8"), key=key, description=description)
    create_table_artifact(
        [_make_metric_row(figures, name) for name in sorted(figures.metrics)], key=f"{key}-figures", description=description
    )
    create_link_artifact((folder / "report.html").as_uri(), link_text="report.html", key=f"{key}-report", description=description)


def _make_metric_row(figures: MetricsFile, name: str) -> dict[str, str | float | None]:
    low, high = figures.intervals.get(name, (None, None))
    comparison = figures.diff.metrics.get(name) if figures.diff else None
    change = comparison.difference if comparison else None
    return {"measure": name, "value": figures.metrics[name], "low": low, "high": high, "change": change}
