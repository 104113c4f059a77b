"""The manifest of a build."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import faiss

from indexmill.storage.index_records import Shard, TrainedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.versions import get_installed_version
from indexmill.tasks.indexing.shard_store import with_snapshot_paths
from indexmill.tasks.publishing.candidate import BuildCandidate

RECORDED_PACKAGES = ("indexmill", "faiss-cpu", "numpy", "torch", "sentence-transformers", "pyarrow", "duckdb", "prefect", "pillow")


def build_manifest(
    build: BuildCandidate, served: tuple[Shard, ...], snapshot_id: str, content: str, failed_rules: tuple[str, ...]
) -> Manifest:
    """All but the list of files. Shards are numbered through, the database's first."""
    config, index_embeddings, live, trained = build.config, build.index_embeddings, build.live, build.trained
    named = (with_snapshot_paths(shard, number) for number, shard in enumerate(served))
    parent = live.snapshot_id if live and live.snapshot_id != snapshot_id else (live.parent if live else None)
    return Manifest(
        name=config.name, snapshot_id=snapshot_id, parent=parent, created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        content=content, config=config.model_dump(mode="json", by_alias=True), modality=build.split.modality, image_root=build.split.image_root,
        embedding_stores=_list_embedding_stores(build.embeddings), fingerprint=index_embeddings.fingerprint, encoder=index_embeddings.encoder, index_modality=index_embeddings.modality, truncated=index_embeddings.truncated,
        datasets={"validated": build.validated.digest, "split": build.split.digest}, factory=trained.factory, metric=config.index.metric,
        dim=index_embeddings.dim, items=sum(shard.count for shard in served), database=index_embeddings.database, query=index_embeddings.query, rejected=build.rejected,
        split={name: getattr(build.split, name) for name in ("labels", "groups", "conflicts", "leaks")},
        metrics=build.evaluation.metrics, timings=build.evaluation.timings, training=_describe_training(trained), search=build.tuned,
        shards=tuple(named), files=(), pool_files=(),
        verdict="refused" if failed_rules and build.force_reason is None else "published", failed_rules=failed_rules,
        force_reason=build.force_reason if failed_rules else None,
        versions={name: get_installed_version(name) for name in RECORDED_PACKAGES}, threads=faiss.omp_get_max_threads(),
    )  # fmt: skip


def _list_embedding_stores(embeddings: EmbeddingSet) -> dict[str, str]:
    captions = {embeddings.captions.fingerprint: "captions.parquet"} if embeddings.captions else {}
    return {embeddings.fingerprint: "items.parquet"} | captions


def _describe_training(trained: TrainedIndex) -> dict[str, Any]:
    """What the manifest says of the training: the index, why it is that one, drift now and at training."""
    return {name: getattr(trained, name) for name in ("digest", "reason", "signals", "baseline", "sampled", "choice")}
