"""The manifest of a build."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import faiss

from indexmill.storage.index_records import Shard, TrainedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.versions import installed
from indexmill.tasks.indexes.pool import shard_in_snapshot
from indexmill.tasks.publishing.build import Build

PACKAGES = ("indexmill", "faiss-cpu", "numpy", "torch", "sentence-transformers", "pyarrow", "duckdb", "prefect", "pillow")


def composed(build: Build, served: tuple[Shard, ...], snapshot_id: str, content: str, objections: tuple[str, ...]) -> Manifest:
    """All but the list of files. Shards are numbered through, the database's first."""
    config, held, live, trained = build.config, build.held, build.live, build.trained
    named = (shard_in_snapshot(shard, number) for number, shard in enumerate(served))
    parent = live.snapshot_id if live and live.snapshot_id != snapshot_id else (live.parent if live else None)
    return Manifest(
        name=config.name, snapshot_id=snapshot_id, parent=parent, created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        content=content, config=config.model_dump(mode="json", by_alias=True), modality=build.split.modality, base=build.split.base,
        stores=_stores(build.embeddings), fingerprint=held.fingerprint, encoder=held.encoder, holds=held.modality, truncated=held.truncated,
        datasets={"validated": build.validated.digest, "split": build.split.digest}, factory=trained.factory, metric=config.index.metric,
        dim=held.dim, items=sum(shard.count for shard in served), database=held.database, query=held.query, rejected=build.rejected,
        split={name: getattr(build.split, name) for name in ("labels", "groups", "conflicts", "leaks")},
        metrics=build.evaluation.metrics, timings=build.evaluation.timings, training=_training(trained), search=build.tuned,
        shards=tuple(named), files=(), pool=(),
        verdict="refused" if objections and build.forced is None else "published", objections=objections,
        forced=build.forced if objections else None,
        versions={name: installed(name) for name in PACKAGES}, threads=faiss.omp_get_max_threads(),
    )  # fmt: skip


def _stores(embeddings: EmbeddingSet) -> dict[str, str]:
    captions = {embeddings.captions.fingerprint: "captions.parquet"} if embeddings.captions else {}
    return {embeddings.fingerprint: "items.parquet"} | captions


def _training(trained: TrainedIndex) -> dict[str, Any]:
    """What the manifest says of the training: the index, why it is that one, drift now and at training."""
    return {name: getattr(trained, name) for name in ("digest", "reason", "signals", "baseline", "sampled", "choice")}
