"""Publish: the gate, the query side, the report, one whole snapshot, one swap of the pointer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import faiss
from prefect import task

from configs.models import PipelineConfig
from storage import catalog, tables
from storage.atomic import commit
from storage.digests import json_digest
from storage.errors import Refused
from storage.index_records import IndexShards, Shard, TrainedIndex, TunedIndex
from storage.manifests import Manifest
from storage.records import EmbeddingSet, Evaluation, FileRef, Snapshot, SplitDataset, ValidatedDataset  # fmt: skip
from storage.root import Root
from storage.snapshots import Snapshots
from storage.versions import installed
from tasks.checks.gate import objections
from tasks.indexes.infos import index_infos
from tasks.indexes.pool import earlier, pooled_paths, shard_in_snapshot, snapshot_names
from tasks.indexes.shards import fill_shards
from tasks.policy import REMEMBERED, StageCache
from tasks.progress import track
from tasks.reports.html import render_report

PACKAGES = ("indexmill", "faiss-cpu", "numpy", "torch", "sentence-transformers", "pyarrow", "duckdb", "prefect", "pillow")


@task(name="publish", cache_policy=StageCache(stage_version=3), **REMEMBERED)
def publish(
    root: Root, config: PipelineConfig, validated: ValidatedDataset, split: SplitDataset, embeddings: EmbeddingSet,
    trained: TrainedIndex, shards: IndexShards, tuned: TunedIndex, evaluation: Evaluation,
) -> Snapshot:  # fmt: skip
    """The new live snapshot. Raises Refused, and leaves the live one alone, when the gate objects."""
    snapshots = Snapshots(root, config.name)
    live = snapshots.live()
    held = embeddings.of(config.index.holds)
    served = (*shards.shards, *_query_side(root, config, held, trained, live))
    content = json_digest([config.model_dump(mode="json"), [shard.key for shard in served], evaluation.digest, split.digest])
    rejects = _all_rejects(root, validated, embeddings)
    manifest = _manifest(root, config, validated, split, held, trained, tuned, served, evaluation, content, live)
    broken = objections(evaluation.metrics, live.metrics if live else None, config.publish.gate)
    if broken:
        manifest = manifest.model_copy(update={"verdict": "refused: " + "; ".join(broken)})
    report = _report(root, config, manifest, live, validated, evaluation)
    if broken:
        raise Refused(
            "the gate refused this build; the live snapshot stays",
            where=f"publish.gate of {config.name}",
            got="; ".join(broken),
            next_step=f"see {root.file(report)}",
        )
    infos = _infos(root, config, held, trained, served, evaluation)
    sources = _sources(served, rejects, split, embeddings, evaluation, report) | {"index_infos.json": infos}
    manifest = manifest.model_copy(
        update={"files": tuple(ref.model_copy(update={"path": name}) for name, ref in sources.items()),
                "pool": _pool(root, config.name, trained, served, (evaluation.metrics_json, evaluation.study_json, report, infos))}
    )  # fmt: skip
    snapshots.assemble(manifest, sources)
    snapshots.publish(manifest.snapshot_id)
    snapshots.retain(config.publish.keep)
    catalog.rebuild(root)
    folder = snapshots.path(manifest.snapshot_id)
    files = tuple(root.ref(folder / name) for name in (*sources, "manifest.json"))
    return Snapshot(
        digest=content, files=files, snapshot_id=manifest.snapshot_id, parent=manifest.parent,
        folder=folder.relative_to(root.path).as_posix(), items=manifest.items,
    )  # fmt: skip


def _query_side(
    root: Root, config: PipelineConfig, embeddings: EmbeddingSet, trained: TrainedIndex, live: Manifest | None
) -> tuple[Shard, ...]:  # fmt: skip
    """The query side as shards about as large as the database's, unless only the database is served."""
    if config.publish.serve == "database" or not embeddings.query:
        return ()
    previous = earlier(root, config.name, live, "query", config.index.shards)
    with track("adding the query side", embeddings.query) as advance:
        filled = fill_shards(
            root, config.name, embeddings, trained, "query", config.index, previous, advance, share=embeddings.query / embeddings.database
        )
    return filled.shards


def _manifest(
    root: Root, config: PipelineConfig, validated: ValidatedDataset, split: SplitDataset, held: EmbeddingSet,
    trained: TrainedIndex, tuned: TunedIndex, served: tuple[Shard, ...], evaluation: Evaluation, content: str, live: Manifest | None,
) -> Manifest:  # fmt: skip
    """All but the list of files. Shards are numbered through, the database's first."""
    snapshot_id = Snapshots(root, config.name).next_id(content)
    named = (shard_in_snapshot(shard, number) for number, shard in enumerate(served))
    parent = live.snapshot_id if live and live.snapshot_id != snapshot_id else (live.parent if live else None)
    return Manifest(
        name=config.name, snapshot_id=snapshot_id, parent=parent, created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        content=content, config=config.model_dump(mode="json", by_alias=True), modality=split.modality, base=split.base,
        fingerprint=held.fingerprint, encoder=held.encoder, holds=held.modality, truncated=held.truncated,
        datasets={"validated": validated.digest, "split": split.digest}, factory=trained.factory, metric=config.index.metric,
        dim=held.dim, items=sum(shard.count for shard in served), database=held.database, query=held.query,
        rejected=validated.rejected + held.rejected,
        split={name: getattr(split, name) for name in ("labels", "groups", "conflicts", "leaks")},
        metrics=evaluation.metrics, timings=evaluation.timings, training=_training(trained),
        search=tuned, shards=tuple(named), files=(), pool=(),
        verdict="published", versions={name: installed(name) for name in PACKAGES}, threads=faiss.omp_get_max_threads(),
    )  # fmt: skip


def _report(
    root: Root, config: PipelineConfig, manifest: Manifest, live: Manifest | None, validated: ValidatedDataset, evaluation: Evaluation
) -> FileRef:
    """report.html beside the evaluation's figures, whatever the verdict."""
    study = json.loads(root.verified(evaluation.study_json).read_text(encoding="utf-8"))
    target = root.file(evaluation.metrics_json).with_name("report.html")
    before = live.metrics if live and live.snapshot_id != manifest.snapshot_id else {}
    root.scratch.write_text(target, render_report(manifest, config.description, before, validated.rejected_by_reason, evaluation, study))
    return root.ref(target)


def _all_rejects(root: Root, validated: ValidatedDataset, embeddings: EmbeddingSet) -> FileRef:
    """The items that validation set aside, and those that have no vector, in one table."""
    if embeddings.rejects is None:
        return validated.rejects
    found = [tables.parquet(root.file(ref)) for ref in (validated.rejects, embeddings.rejects)]
    with root.scratch.staging() as staging:
        tables.copy(f"FROM {found[0]} UNION ALL BY NAME FROM {found[1]} ORDER BY item_id", staging / "rejects.parquet", spill=root.tmp)
        target = root.dataset(validated.name, "rejects", json_digest([validated.digest, embeddings.digest])) / "rejects.parquet"
        commit(staging / "rejects.parquet", target)
    return root.ref(target)


def _sources(
    served: tuple[Shard, ...], rejects: FileRef, split: SplitDataset, embeddings: EmbeddingSet, evaluation: Evaluation, report: FileRef
) -> dict[str, FileRef]:
    """Name in the snapshot -> the file that it is."""
    files = {name: ref for number, shard in enumerate(served) for name, ref in snapshot_names(shard, number).items()}
    files |= {"items.parquet": embeddings.items, "rejects.parquet": rejects, "labels.parquet": split.by_label}
    if split.pairs:
        files["pairs.parquet"] = split.pairs
    return files | {"report/metrics.json": evaluation.metrics_json, "report/report.html": report}


def _infos(
    root: Root, config: PipelineConfig, embeddings: EmbeddingSet, trained: TrainedIndex, served: tuple[Shard, ...], evaluation: Evaluation
) -> FileRef:  # fmt: skip
    """index_infos.json beside the evaluation's figures."""
    target = root.file(evaluation.metrics_json).with_name("index_infos.json")
    infos = index_infos(
        config.index, [f"shard-{number:05d}.faiss" for number in range(len(served))], size=sum(shard.index.size for shard in served),
        vectors=sum(shard.count for shard in served), dim=embeddings.dim, lists=trained.lists, timings=evaluation.timings,
        baseline=trained.baseline,
    )  # fmt: skip
    root.scratch.write_text(target, json.dumps(infos, indent=2) + "\n")
    return root.ref(target)


def _pool(root: Root, name: str, trained: TrainedIndex, served: tuple[Shard, ...], figures: tuple[FileRef, ...]) -> tuple[str, ...]:
    """The files under the root that a snapshot needs kept."""
    record = root.trained(name, trained.digest, "json").relative_to(root.path).as_posix()
    paths = [record, trained.index.path, trained.rows.path, *(ref.path for ref in figures)]
    return tuple(sorted([*paths, *(path for shard in served for path in pooled_paths(root, name, shard))]))


def _training(trained: TrainedIndex) -> dict[str, Any]:
    """What the manifest says of the training: the index, why it is that one, drift now and at training."""
    return {name: getattr(trained, name) for name in ("digest", "reason", "signals", "baseline", "sampled", "choice")}
