"""Publish: evaluate the gate, add the query side, write the report, assemble one snapshot and swap the pointer."""

from __future__ import annotations

import json
from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from indexmill.configs.models import PipelineConfig
from indexmill.storage import catalog, metrics_file
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import DamagedFile, PublishRefused
from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef, Snapshot, SplitDataset, ValidatedDataset
from indexmill.storage.retention import apply_retention
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.autofaiss_info import build_index_infos
from indexmill.tasks.indexing.shard_store import list_shard_paths, name_snapshot_files
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards
from indexmill.tasks.publishing.gate import evaluate_gate
from indexmill.tasks.publishing.manifest import build_manifest
from indexmill.tasks.publishing.report import write_report
from indexmill.tasks.publishing.served_shards import build_served_shards
from indexmill.tasks.runner import LOCAL_RUNNER, Runner
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("publish"))
def publish(
    root: Root,
    *,
    config: PipelineConfig,
    validated: ValidatedDataset,
    split: SplitDataset,
    embeddings: EmbeddingSet,
    trained: TrainedIndex,
    shards: IndexShards,
    tuned: TunedIndex,
    evaluation: Evaluation,
    force: str | None,
    stage_seconds: dict[str, float],
    runner: Runner = LOCAL_RUNNER,
) -> Snapshot:
    """Assemble the snapshot and make it live if it passes the gate, or if `force` gives a reason to publish it anyway.

    Raises:
        PublishRefused: If the gate refuses the build. The snapshot is kept and marked as refused; the live one stays.
    """
    snapshots = Snapshots(root, config.name)
    pointer = snapshots.read_pointer()
    build = BuildCandidate(
        root=root,
        config=config,
        validated=validated,
        split=split,
        embeddings=embeddings,
        trained=trained,
        shards=shards,
        tuned=tuned,
        evaluation=evaluation,
        live=snapshots.read_live_manifest(),
        force_reason=force,
        stage_seconds=stage_seconds,
    )
    manifest = _assemble_snapshot(build, snapshots, runner)
    if manifest.verdict == "published":
        snapshots.publish(manifest.snapshot_id, replacing=pointer)
    apply_retention(snapshots, config.publish.keep, config.publish.keep_days)
    catalog.rebuild(root)
    folder = snapshots.get_path(manifest.snapshot_id)
    create_build_artifacts(folder / "report")
    if manifest.verdict == "refused":
        raise _make_refused_error(manifest, folder / "report" / "report.html")
    return Snapshot(
        digest=manifest.content,
        files=tuple(root.make_ref(folder / name) for name in (*(ref.path for ref in manifest.files), "manifest.json")),
        snapshot_id=manifest.snapshot_id,
        parent=manifest.parent,
        folder=folder.relative_to(root.path).as_posix(),
        items=manifest.items,
    )


def describe_stale_snapshot(root: Root, name: str, record: Snapshot) -> str:
    """Return why a cached snapshot must be published again; empty if its content is live, or was withdrawn by a rollback.

    Data or a config that changed and changed back have a cached snapshot that another one has replaced.
    """
    snapshots = Snapshots(root, name)
    try:
        live = snapshots.read_live_manifest()
    except DamagedFile:
        return "the live snapshot is damaged"
    if live is None:
        return "nothing is live"
    return "" if live.content == record.digest or snapshots.is_withdrawn(record.snapshot_id) else "another content is live"


def create_build_artifacts(report_folder: Path) -> None:
    """Create Prefect artifacts from a build's report, each described by verdict and snapshot.

    `build-index-NAME` holds report.md, `build-index-NAME-metrics` one row per metric, `build-index-NAME-report` a link to report.html.
    """
    metrics = MetricsFile.model_validate_json((report_folder / "metrics.json").read_bytes())
    key, description = f"build-index-{metrics.name}", f"{metrics.verdict}: {metrics.name} {metrics.snapshot_id}"
    create_markdown_artifact((report_folder / "report.md").read_text(encoding="utf-8"), key=key, description=description)
    rows = [_make_metric_row(metrics, name) for name in sorted(metrics.metrics)]
    create_table_artifact(rows, key=f"{key}-metrics", description=description)
    create_link_artifact((report_folder / "report.html").as_uri(), link_text="report.html", key=f"{key}-report", description=description)


def _assemble_snapshot(build: BuildCandidate, snapshots: Snapshots, runner: Runner) -> Manifest:
    """Write the snapshot with its report and archive its metrics. The pointer to the live snapshot stays."""
    served = build_served_shards(build, runner)
    content = json_digest(
        [
            build.config.model_dump(mode="json"),
            [shard.key for shard in served.shards],
            served.rejects.sha256,
            build.evaluation.digest,
            build.split.digest,
        ]
    )
    snapshot_id = snapshots.assign_id(content)
    verdict = evaluate_gate(build, served, snapshot_id)
    manifest = build_manifest(build, served, snapshot_id, content, verdict.failed_rules)
    report = write_report(build, served, manifest, verdict)
    sources = _list_snapshot_files(build, served) | report.files | {"index_infos.json": _write_index_infos(build, served)}
    manifest = manifest.model_copy(
        update={
            "files": tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items()),
            "sources": {name: ref.path for name, ref in sources.items()},
            "pool_files": _list_pool_files(build, served, [*report.files.values(), sources["index_infos.json"]]),
        }
    )
    snapshots.assemble(manifest, sources)
    metrics_file.archive_metrics(build.root, build.config.name, snapshot_id, report.files["report/metrics.json"])
    return manifest


def _list_snapshot_files(build: BuildCandidate, served: ServedShards) -> dict[str, FileRef]:
    """Map names in the snapshot to files: shards, items, rejects, labels, captions, pairs, queries and judgements."""
    files = {name: ref for number, shard in enumerate(served.shards) for name, ref in name_snapshot_files(shard, number).items()}
    files |= {"items.parquet": build.embeddings.items, "rejects.parquet": served.rejects, "labels.parquet": build.split.by_label}
    if build.embeddings.captions:
        files["captions.parquet"] = build.embeddings.captions.items
    if build.embeddings.chunks:
        files["chunks.parquet"] = build.embeddings.chunks.items
    if build.split.pairs:
        files["pairs.parquet"] = build.split.pairs
    for query_set in build.embeddings.query_sets:
        files[query_set.name_file("queries")] = query_set.embeddings.items
        if query_set.judgements:
            files[query_set.name_file("judgements")] = query_set.judgements
    for query_set, table in zip(build.embeddings.query_sets, build.split.query_tables, strict=True):
        if table.counts["queries_rejected"]:
            files[query_set.name_file("query-rejects")] = table.rejects
    return files


def _write_index_infos(build: BuildCandidate, served: ServedShards) -> FileRef:
    """Write index_infos.json beside the tables of the evaluation."""
    path = build.root.file(build.evaluation.per_query).with_name("index_infos.json")
    infos = build_index_infos(
        build.config.index,
        [f"shard-{number:05d}.faiss" for number in range(len(served.shards))],
        size=sum(shard.index.size for shard in served.shards),
        vectors=served.vectors,
        dim=build.index_embeddings.dim,
        lists=build.trained.lists,
        timings=build.evaluation.timings,
        baseline=build.trained.baseline,
    )
    build.root.scratch.write_text(path, json.dumps(infos, indent=2) + "\n")
    return build.root.make_ref(path)


def _list_pool_files(build: BuildCandidate, served: ServedShards, report_files: list[FileRef]) -> tuple[str, ...]:
    """List the files under the root that must be kept as long as the snapshot."""
    root, name, trained, evaluation = build.root, build.config.name, build.trained, build.evaluation
    refs = {*(ref.path for ref in report_files), evaluation.report_data.path, evaluation.ground_truth.path}
    refs |= {ref.path for ref in (*evaluation.set_ground_truths, build.tuned.ground_truth) if ref}
    training_record = root.trained_path(name, trained.digest, "json").relative_to(root.path).as_posix()
    shard_paths = [path for shard in served.shards for path in list_shard_paths(root, name, shard)]
    return tuple(sorted([training_record, trained.index.path, trained.rows.path, *refs, *shard_paths]))


def _make_metric_row(metrics: MetricsFile, name: str) -> dict[str, str | float | None]:
    low, high = metrics.intervals.get(name, (None, None))
    comparison = metrics.diff.metrics.get(name) if metrics.diff else None
    change = comparison.difference if comparison else None
    return {"metric": name, "value": metrics.metrics[name], "low": low, "high": high, "change": change}


def _make_refused_error(manifest: Manifest, report: Path) -> PublishRefused:
    return PublishRefused(
        "the gate refused this build; the live snapshot stays",
        where=f"publish.gate of {manifest.name}",
        got="; ".join(manifest.failed_rules),
        next_step=f"see {report}; to publish the build anyway, build again with --force REASON",
    )
