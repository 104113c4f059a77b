"""Build the manifest of a snapshot."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import faiss

from indexmill.storage.index_records import TrainedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import ChunkEstimate, EmbeddingSet
from indexmill.storage.versions import get_installed_version
from indexmill.tasks.encoding.chunk_table import find_chunk_estimate
from indexmill.tasks.indexing.shard_store import with_snapshot_paths
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards

RECORDED_PACKAGES = ("indexmill", "faiss-cpu", "numpy", "torch", "sentence-transformers", "pyarrow", "duckdb", "prefect", "pillow")


def build_manifest(build: BuildCandidate, served: ServedShards, snapshot_id: str, content: str, failed_rules: tuple[str, ...]) -> Manifest:
    """Build the manifest without its list of files. Shards are numbered in order, the database's first."""
    config, split, trained, embeddings = build.config, build.split, build.trained, build.index_embeddings
    return Manifest(
        name=config.name,
        snapshot_id=snapshot_id,
        parent=_find_parent(build.live, snapshot_id),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        content=content,
        config=config.model_dump(mode="json", by_alias=True),
        modality=split.modality,
        image_root=split.image_root,
        embedding_stores=_list_embedding_stores(build.embeddings),
        query_stores=_list_query_stores(build.embeddings),
        fingerprint=embeddings.fingerprint,
        query_fingerprint=embeddings.query_fingerprint,
        prompts=embeddings.prompts,
        encoder=embeddings.encoder,
        index_modality=embeddings.modality,
        truncated=embeddings.truncated,
        datasets=_list_datasets(build),
        factory=trained.factory,
        metric=config.index.metric,
        dim=embeddings.dim,
        items=served.items,
        vectors=served.vectors,
        chunk_estimate=_estimate_chunks(build),
        database=embeddings.database,
        query=embeddings.query,
        rejected=build.rejected_items,
        split={"labels": split.labels, "groups": split.groups, "conflicts": split.conflicts, "leaks": split.leaks},
        metrics=build.evaluation.metrics,
        timings=build.evaluation.timings,
        training=_describe_training(trained),
        search=build.tuned,
        shards=tuple(with_snapshot_paths(shard, number) for number, shard in enumerate(served.shards)),
        files=(),
        sources={},
        pool_files=(),
        verdict="refused" if failed_rules and build.force_reason is None else "published",
        failed_rules=failed_rules,
        force_reason=build.force_reason if failed_rules else None,
        versions={name: get_installed_version(name) for name in RECORDED_PACKAGES},
        threads=faiss.omp_get_max_threads(),
    )


def _estimate_chunks(build: BuildCandidate) -> ChunkEstimate | None:
    """Estimate what indexing chunks would cost, if texts were truncated; that number is known exactly."""
    embeddings = build.index_embeddings
    if not embeddings.truncated or embeddings.modality != "text" or embeddings.chunks:
        return None
    estimate = find_chunk_estimate(build.config.encoder, build.root.file(embeddings.items), temp_dir=build.root.tmp)
    return estimate and estimate.model_copy(update={"cut": embeddings.truncated})


def _find_parent(live: Manifest | None, snapshot_id: str) -> str | None:
    """Return the id of the live snapshot, or its parent if this is the live snapshot again."""
    if live is None:
        return None
    return live.parent if live.snapshot_id == snapshot_id else live.snapshot_id


def _list_embedding_stores(embeddings: EmbeddingSet) -> dict[str, str]:
    """Map the fingerprint of each embedding store to the table of its items."""
    if embeddings.chunks:
        return {embeddings.store_fingerprint: "chunks.parquet"}
    captions = {embeddings.captions.store_fingerprint: "captions.parquet"} if embeddings.captions else {}
    return {embeddings.store_fingerprint: "items.parquet"} | captions


def _list_query_stores(embeddings: EmbeddingSet) -> dict[str, tuple[str, ...]]:
    """Map the fingerprint of each embedding store that has vectors of queries to the tables of these queries."""
    stores: dict[str, tuple[str, ...]] = {}
    for query_set in embeddings.query_sets:
        fingerprint = query_set.embeddings.store_fingerprint
        stores[fingerprint] = (*stores.get(fingerprint, ()), query_set.name_file("queries"))
    return stores


def _list_datasets(build: BuildCandidate) -> dict[str, str]:
    """Map stages to the digests of their tables; `queries` only if there are any of one's own."""
    split, digests = build.split, {"validated": build.validated.digest}
    if split.items_digest is None:
        return digests | {"split": split.digest}
    return digests | {"split": split.items_digest, "queries": split.digest}


def _describe_training(trained: TrainedIndex) -> dict[str, Any]:
    """Describe which training was used, why, and the drift signals now and at training."""
    return {name: getattr(trained, name) for name in ("digest", "reason", "signals", "baseline", "sampled", "choice")}
