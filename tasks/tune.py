"""Tune: how widely a search of the filled shards must look to reach the recall asked for, on held-out queries."""

from __future__ import annotations

import numpy as np
from prefect import task

from indexmill.configs.models import IndexConfig
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import IndexShards, SearchParams, TrainedIndex, TunedIndex
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.auto_factory import DEFAULT_RECALL_TARGET, TUNING_QUERIES
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.tuning import TuningResult
from indexmill.tasks.indexing.tuning import tune as tune_searcher
from indexmill.tasks.metrics.neighbors import exact_search
from indexmill.tasks.progress import track
from indexmill.tasks.stage_policy import get_task_options

TUNING_K = 10


@task(**get_task_options("tune"))
def tune(
    root: Root, embeddings: EmbeddingSet, query_embeddings: EmbeddingSet, trained: TrainedIndex, shards: IndexShards, config: IndexConfig
) -> TunedIndex:
    """The search setting: the config's own, or the quickest one that surely reaches `recall_target`. asked: whose query side is asked with.

    What cannot be reached is no error: the record says so with the nearest that can, and the gate may refuse it.
    """
    params = SearchParams(nprobe=config.nprobe, ef_search=config.ef_search, rerank_candidates=config.rerank_candidates, spill=trained.spill)
    target = config.recall_target or (DEFAULT_RECALL_TARGET if config.factory == "auto" else None)
    is_configured = config.nprobe or config.ef_search or config.rerank_candidates
    if trained.factory == "Flat":
        return _make_record(shards, params, "exact search finds all", None, config)
    if is_configured or target is None or not query_embeddings.query or embeddings.database <= TUNING_K:
        return _make_record(shards, params, "as configured" if is_configured else "by default", None, config)
    with track("tuning", 1) as advance:
        searcher = open_searcher(shards.shards, root.file, config.metric, params)
        result = _tune_search(root, embeddings, query_embeddings, searcher, config.seed, target)
        advance(1)
    params = result.chosen.params.model_copy(update={"spill": trained.spill})
    return _make_record(shards, params, str(result), result, config)


def _tune_search(
    root: Root, embeddings: EmbeddingSet, query_embeddings: EmbeddingSet, searcher: Searcher, seed: int, target: float
) -> TuningResult:
    with open_vectors(root, query_embeddings, side="query", sample=(TUNING_QUERIES, seed)) as blocks:
        _, queries = concatenate_blocks(blocks, query_embeddings.dim)
    with open_vectors(root, embeddings, side="database") as blocks:
        exact: np.ndarray = exact_search(queries, blocks, TUNING_K, searcher.metric)[1]
    return tune_searcher(searcher, queries, exact, target, k=TUNING_K)


def _make_record(shards: IndexShards, params: SearchParams, reason: str, result: TuningResult | None, config: IndexConfig) -> TunedIndex:
    """latency_met: by CPU time a query in batches, against `latency_budget_ms`; None where there is no budget or no measurement."""
    budget = config.latency_budget_ms
    trial = result.chosen if result else None
    return TunedIndex(
        digest=json_digest([shards.digest, params.model_dump(mode="json")]), files=(), shards=shards.digest, params=params,
        target=result.target if result else None, met=result.met if result else None, recall=trial.recall if trial else None,
        recall_bound=trial.recall_lower_bound if trial else None, cpu_ms_per_query=trial.cpu_seconds_per_query * 1000 if trial else None,
        latency_met=trial.cpu_seconds_per_query * 1000 <= budget if trial and budget else None, reason=reason,
    )  # fmt: skip
