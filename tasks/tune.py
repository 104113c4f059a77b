"""Tune: search parameters that reach the recall target on held-out queries."""

from __future__ import annotations

from prefect import task

from indexmill.configs.models import IndexConfig
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import IndexShards, SearchParams, TrainedIndex, TunedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.ground_truth import TruthRequest, compute_ground_truth
from indexmill.tasks.indexing.auto_factory import DEFAULT_RECALL_TARGET, TUNING_QUERIES
from indexmill.tasks.indexing.chunk_search import load_chunk_map
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.tuning import TuningResult, tune_search
from indexmill.tasks.progress import track
from indexmill.tasks.stage_policy import get_task_options

TUNING_K = 10


@task(**get_task_options("tune"))
def tune(
    root: Root,
    name: str,
    embeddings: EmbeddingSet,
    query_embeddings: EmbeddingSet,
    trained: TrainedIndex,
    shards: IndexShards,
    config: IndexConfig,
) -> TunedIndex:
    """Choose the search parameters: those of the config, or the fastest ones that reach `recall_target` with 95 %
    confidence.

    A target that cannot be reached is not an error: the record holds the closest result, and the gate may reject it.

    Args:
        root: the storage root.
        name: the pipeline's name.
        embeddings: the indexed vectors.
        query_embeddings: the vectors whose query side is searched for.
        trained: the trained index.
        shards: the filled shards.
        config: the index section of the pipeline.
    """
    params = SearchParams(nprobe=config.nprobe, ef_search=config.ef_search, rerank_candidates=config.rerank_candidates, spill=trained.spill)
    target = config.recall_target or (DEFAULT_RECALL_TARGET if config.factory == "auto" else None)
    is_configured = config.nprobe or config.ef_search or config.rerank_candidates
    if trained.factory == "Flat":
        return _make_record(shards, params, "exact search needs no tuning", config)
    if is_configured or target is None or not query_embeddings.query or embeddings.database <= TUNING_K:
        return _make_record(shards, params, "as configured" if is_configured else "by default", config)
    with track("tuning", 1) as advance:
        searcher = open_searcher(shards.shards, root.file, config.metric, params, load_chunk_map(root, embeddings))
        with open_vectors(root, query_embeddings, side="query", sample=(TUNING_QUERIES, config.seed)) as blocks:
            ids, queries = concatenate_blocks(blocks, query_embeddings.dim)
        request = TruthRequest(embeddings, query_embeddings, ids, queries, TUNING_K, searcher.metric, "tuning", searcher)
        exact = compute_ground_truth(root, root.index(name) / "evaluations" / "tuning", request)
        result = tune_search(searcher, queries, exact.ids, target, k=TUNING_K)
        advance(1)
    record = _make_record(shards, result.chosen.params, str(result), config, result)
    return record.model_copy(update={"ground_truth": exact.file})


def _make_record(
    shards: IndexShards, params: SearchParams, reason: str, config: IndexConfig, result: TuningResult | None = None
) -> TunedIndex:
    """Make the record.

    `latency_met` compares CPU time per query in batches with `latency_budget_ms`; None if either is missing.
    """
    record = TunedIndex(
        digest=json_digest([shards.digest, params.model_dump(mode="json")]),
        files=(),
        shards=shards.digest,
        params=params,
        target=None,
        met=None,
        recall=None,
        recall_bound=None,
        cpu_ms_per_query=None,
        latency_met=None,
        reason=reason,
    )
    if result is None:
        return record
    cpu_ms = result.chosen.cpu_seconds_per_query * 1000
    measured = {
        "target": result.target,
        "met": result.met,
        "recall": result.chosen.recall,
        "recall_bound": result.chosen.recall_lower_bound,
        "cpu_ms_per_query": cpu_ms,
        "latency_met": cpu_ms <= config.latency_budget_ms if config.latency_budget_ms else None,
    }
    return record.model_copy(update=measured)
