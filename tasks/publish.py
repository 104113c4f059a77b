"""Publish: the gate, the query side, the report, one whole snapshot, one swap of the pointer."""

from __future__ import annotations

import json

from prefect import task

from indexmill.configs.models import PipelineConfig
from indexmill.storage import catalog, history
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import Refused
from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef, Snapshot, SplitDataset, ValidatedDataset  # fmt: skip
from indexmill.storage.retention import retain
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.artifacts import leave_artifacts
from indexmill.tasks.indexes.infos import index_infos
from indexmill.tasks.indexes.pool import pooled_paths, snapshot_names
from indexmill.tasks.policy import options
from indexmill.tasks.publishing.build import Build, Served
from indexmill.tasks.publishing.manifest import composed
from indexmill.tasks.publishing.reporting import report
from indexmill.tasks.publishing.serving import served as serve
from indexmill.tasks.publishing.verdict import verdict as ask


@task(**options("publish"))
def publish(
    root: Root, config: PipelineConfig, validated: ValidatedDataset, split: SplitDataset, embeddings: EmbeddingSet,
    trained: TrainedIndex, shards: IndexShards, tuned: TunedIndex, evaluation: Evaluation, force: str | None, seconds: dict[str, float],
) -> Snapshot:  # fmt: skip
    """The new live snapshot. When the gate objects, the snapshot is kept and marked, the live one stays, and Refused is raised.

    force: the reason for publishing it all the same, which the manifest keeps. seconds: of the stages before, for the report.
    """
    snapshots = Snapshots(root, config.name)
    build = Build(root, config, validated, split, embeddings, trained, shards, tuned, evaluation, snapshots.live(), force, seconds)
    served = serve(build)
    content = json_digest(
        [config.model_dump(mode="json"), [shard.key for shard in served.shards], served.rejects.sha256, evaluation.digest, split.digest]
    )
    snapshot_id = snapshots.next_id(content)
    verdict = ask(build, served, snapshot_id)
    manifest = composed(build, served.shards, snapshot_id, content, verdict.objections)
    reported = report(build, served, manifest, verdict)
    sources = _sources(build, served, reported.files)
    pool = sorted({ref.path for ref in (*reported.files.values(), evaluation.sketches, evaluation.truth, sources["index_infos.json"])})
    named = tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items())
    manifest = manifest.model_copy(update={"files": named, "pool": _pool(build, served, pool)})
    snapshots.assemble(manifest, sources)
    history.remember(root, config.name, snapshot_id, reported.files["report/metrics.json"])
    if manifest.verdict == "published":
        snapshots.publish(snapshot_id)
    retain(snapshots, config.publish.keep, config.publish.keep_days)
    catalog.rebuild(root)
    folder = snapshots.path(snapshot_id)
    leave_artifacts(reported.figures, folder / "report")
    if manifest.verdict == "refused":
        raise _refused(manifest, f"{folder / 'report' / 'report.html'}")
    files = tuple(root.ref(folder / name) for name in (*sources, "manifest.json"))
    return Snapshot(
        digest=content, files=files, snapshot_id=snapshot_id, parent=manifest.parent, folder=folder.relative_to(root.path).as_posix(),
        items=manifest.items,
    )  # fmt: skip


def _refused(manifest: Manifest, report: str) -> Refused:
    return Refused(
        "the gate refused this build; the live snapshot stays",
        where=f"publish.gate of {manifest.name}",
        got="; ".join(manifest.objections),
        next_step=f"see {report}; indexmill build {manifest.name} --force REASON publishes it all the same",
    )


def _sources(build: Build, served: Served, reported: dict[str, FileRef]) -> dict[str, FileRef]:
    """Name in the snapshot -> the file that it is."""
    files = {name: ref for number, shard in enumerate(served.shards) for name, ref in snapshot_names(shard, number).items()}
    files |= {"items.parquet": build.embeddings.items, "rejects.parquet": served.rejects, "labels.parquet": build.split.by_label}
    if build.embeddings.captions:
        files["captions.parquet"] = build.embeddings.captions.items
    if build.split.pairs:
        files["pairs.parquet"] = build.split.pairs
    return files | reported | {"index_infos.json": _infos(build, served)}


def _infos(build: Build, served: Served) -> FileRef:
    """index_infos.json beside the evaluation's tables."""
    target = build.root.file(build.evaluation.per_query).with_name("index_infos.json")
    infos = index_infos(
        build.config.index, [f"shard-{number:05d}.faiss" for number in range(len(served.shards))],
        size=sum(shard.index.size for shard in served.shards), vectors=served.items, dim=build.held.dim, lists=build.trained.lists,
        timings=build.evaluation.timings, baseline=build.trained.baseline,
    )  # fmt: skip
    build.root.scratch.write_text(target, json.dumps(infos, indent=2) + "\n")
    return build.root.ref(target)


def _pool(build: Build, served: Served, figures: list[str]) -> tuple[str, ...]:
    """The files under the root that a snapshot needs kept."""
    root, name, trained = build.root, build.config.name, build.trained
    record = root.trained(name, trained.digest, "json").relative_to(root.path).as_posix()
    paths = [record, trained.index.path, trained.rows.path, *figures]
    return tuple(sorted([*paths, *(path for shard in served.shards for path in pooled_paths(root, name, shard))]))
