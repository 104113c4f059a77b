"""The queries of a study with their ground truth: exact neighbors, and labels or judgements."""

from __future__ import annotations

import time
from dataclasses import dataclass

import faiss
import numpy as np
from threadpoolctl import threadpool_info

from indexmill.configs.models import PipelineConfig
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.labels import ItemLabels
from indexmill.tasks.evaluation.own_queries import load_qrels, load_query_vectors
from indexmill.tasks.indexing.auto_factory import TUNING_QUERIES
from indexmill.tasks.indexing.chunk_search import exact_search_items
from indexmill.tasks.indexing.factory import FAISS_METRICS
from indexmill.tasks.metrics.latency import SupportsSearch, measure_search_speed
from indexmill.tasks.metrics.neighbors import ann_recall_at, distance_recall_at
from indexmill.tasks.metrics.per_label import UNLABELED
from indexmill.tasks.metrics.qrels import Qrels
from indexmill.tasks.metrics.ranking import compute_query_metrics
from indexmill.tasks.studies.brute_force import BruteForce
from indexmill.tasks.studies.results import SearchMeasurements

K = 10
BATCH_QUERIES = 256
MIN_TUNING_QUERIES = 100  # if fewer remain, search parameters are tuned on the measured queries


@dataclass(frozen=True)
class QuerySet:
    """The queries of a study with everything to measure a search by.

    Attributes:
        queries: float32 (n, dim).
        exact_ids: Ids of the exact neighbors, int64 (n, K).
        exact_scores: Their scores, float32 (n, K).
        query_labels: Label codes, int32 (n,).
        relevant_counts: Items of the database with the query's label, int64 (n,).
        labels: The labels of all items.
        tuning_queries: Queries to tune search parameters on, float32 (m, dim).
        tuning_exact_ids: Ids of their exact neighbors, int64 (m, K).
        depth: Ranking depth of `map`.
        higher_is_better: Whether scores are inner products.
        qrels: The judgements of queries of one's own, which then decide relevance; None for held-out items.
    """

    queries: np.ndarray
    exact_ids: np.ndarray
    exact_scores: np.ndarray
    query_labels: np.ndarray
    relevant_counts: np.ndarray
    labels: ItemLabels
    tuning_queries: np.ndarray
    tuning_exact_ids: np.ndarray
    depth: int
    higher_is_better: bool
    qrels: Qrels | None = None

    def measure_search(self, searcher: SupportsSearch) -> SearchMeasurements:
        """Measure one setting of the search parameters: the quality of its results, then its speed."""
        k = min(K, self.depth)
        start = time.process_time()
        scores, retrieved = _search_batches(searcher, self.queries, k)
        cpu_seconds = time.process_time() - start
        speed = measure_search_speed(searcher, self.queries, threads=count_threads(searcher), k=k)
        distance_recalls = distance_recall_at(scores, retrieved, self.exact_scores, K, higher_is_better=self.higher_is_better)
        return SearchMeasurements(
            single_query_p50_ms=speed["single_query_p50_ms"],
            single_query_p95_ms=speed["single_query_p95_ms"],
            batch_queries_per_second=speed["batch_queries_per_second"],
            batch_size=len(self.queries),
            threads=count_threads(searcher),
            cpu_ms_per_query=cpu_seconds / len(self.queries) * 1000,
            ann_recall_at_10=float(ann_recall_at(retrieved, self.exact_ids, K).mean()),
            ann_distance_recall_at_10=float(distance_recalls.mean()),
            **self._measure_relevance(searcher, retrieved),
        )

    def _measure_relevance(self, searcher: SupportsSearch, retrieved: np.ndarray) -> dict[str, float | None]:
        judged = self.qrels.judged > 0 if self.qrels else self.relevant_counts > 0
        if not judged.any():
            return {"precision_at_10": None, "recall_at_10": None, "map": None}
        _, deep = _search_batches(searcher, self.queries[judged], self.depth)
        measure = self._measure_by_judgements if self.qrels else self._measure_by_label
        metrics, deep_metrics = measure(retrieved[judged], judged), measure(deep, judged)
        measured: dict[str, float | None] = {name: metrics[name] for name in ("precision_at_10", "recall_at_10")}
        if self.qrels:
            measured["ndcg_at_10"] = metrics["ndcg_at_10"]
        return measured | {"map": deep_metrics["map"]}

    def _measure_by_label(self, retrieved: np.ndarray, judged: np.ndarray) -> dict[str, float]:
        hits = self.labels.lookup(retrieved) == self.query_labels[judged, None]
        columns = compute_query_metrics(hits, self.relevant_counts[judged], (K,))
        return {name: float(values.mean()) for name, values in columns.items()}

    def _measure_by_judgements(self, retrieved: np.ndarray, judged: np.ndarray) -> dict[str, float]:
        """As in an evaluation: a judged query without a relevant item counts 0."""
        if self.qrels is None:
            return {}
        all_retrieved = np.full((len(judged), retrieved.shape[1]), -1, np.int64)
        all_retrieved[judged] = retrieved
        gains, relevant = self.qrels.look_up_gains(all_retrieved)[judged], np.maximum(self.qrels.relevant[judged], 1)
        columns = compute_query_metrics(gains > 0, relevant, (K,), gains, self.qrels.ideal_gains(K)[judged])
        return {name: float(values.mean()) for name, values in columns.items()}


def load_query_set(root: Root, config: PipelineConfig, embeddings: EmbeddingSet) -> QuerySet:
    """Load a seeded sample of the queries, and search for them exactly. Holds the queries and the labels of all items, not the database.

    Of queries of one's own, the main set is taken, judged queries first. Queries that are nearly a copy of an item in the database are
    left out if `split.leaks` says so.

    Raises:
        InputError: If there are no queries.
    """
    indexed = embeddings.for_modality(config.index.modality)
    own = embeddings.query_sets[0] if embeddings.query_sets else None
    max_queries, metric = config.study.max_queries, FAISS_METRICS[config.index.metric]
    larger_ids, larger_sample = _sample_queries(root, config, embeddings, max_queries + TUNING_QUERIES)
    ids, queries = _sample_queries(root, config, embeddings, max_queries)
    if not len(ids):
        raise InputError(
            "no queries are held out, so there is nothing to compare",
            where=f"split of {config.name}",
            next_step="set split.mode to hash or given; split.leaks: keep also keeps queries that are near copies",
        )
    is_left_over = ~np.isin(larger_ids, ids)
    tuning_queries = larger_sample[is_left_over] if is_left_over.sum() >= MIN_TUNING_QUERIES else queries
    scores, exact_ids = exact_search_items(root, indexed, np.concatenate([queries, tuning_queries]), K, metric)
    labels = ItemLabels(root, embeddings.without_queries(), indexed)
    query_labels = labels.lookup(ids)
    label_counts = labels.count_per_label("database")[query_labels] if labels.names else 0
    return QuerySet(
        queries=queries,
        exact_ids=exact_ids[: len(ids)],
        exact_scores=scores[: len(ids)],
        query_labels=query_labels,
        relevant_counts=np.where(query_labels == UNLABELED, 0, label_counts),
        labels=labels,
        tuning_queries=tuning_queries,
        tuning_exact_ids=exact_ids[len(ids) :],
        depth=min(max(config.evaluation.depth, K), indexed.database),
        higher_is_better=metric == faiss.METRIC_INNER_PRODUCT,
        qrels=load_qrels(root, own.judgements, ids) if own else None,
    )


def count_threads(searcher: SupportsSearch) -> int:
    """Return the number of threads a search can use: FAISS's, or those of NumPy's matrix products."""
    if isinstance(searcher, BruteForce):
        return max((int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    return int(faiss.omp_get_max_threads())


def _sample_queries(root: Root, config: PipelineConfig, embeddings: EmbeddingSet, count: int) -> tuple[np.ndarray, np.ndarray]:
    seed, include_leaks = config.index.seed, config.split.leaks == "keep"
    if embeddings.query_sets:
        return load_query_vectors(root, embeddings.query_sets[0], max_queries=count, include_leaks=include_leaks, seed=seed)
    query_embeddings = embeddings.for_modality(config.evaluation.query_modality or config.index.modality)
    with open_vectors(root, query_embeddings, side="query", leaking=include_leaks, sample=(count, seed)) as blocks:
        return concatenate_blocks(blocks, query_embeddings.dim)


def _search_batches(searcher: SupportsSearch, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    parts = [searcher.search(queries[start : start + BATCH_QUERIES], k) for start in range(0, len(queries), BATCH_QUERIES)]
    scores, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return scores, ids
