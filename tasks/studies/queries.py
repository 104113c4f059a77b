"""The queries of a study with their ground truth: exact neighbors and labels."""

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
from indexmill.tasks.indexing.auto_factory import TUNING_QUERIES
from indexmill.tasks.indexing.factory import FAISS_METRICS
from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.latency import SupportsSearch, measure_search_speed
from indexmill.tasks.metrics.neighbors import ann_recall_at, distance_recall_at
from indexmill.tasks.metrics.per_label import UNLABELED
from indexmill.tasks.metrics.ranking import compute_query_metrics
from indexmill.tasks.studies.brute_force import BruteForce
from indexmill.tasks.studies.results import SearchMeasurements

K = 10
BATCH_QUERIES = 256
MIN_TUNING_QUERIES = 100  # other queries, at least; with fewer, settings are tuned on those that are measured


@dataclass(frozen=True)
class QuerySet:
    """queries: float32 (n, dim); exact: ids int64 (n, K), exact_scores: float32 (n, K), both of exact search; wanted: label codes (n,),
    relevant: items of the database with that label (n,). tuning: other queries and their exact neighbours. depth: that `map` looks to.
    """

    queries: np.ndarray
    exact: np.ndarray
    exact_scores: np.ndarray
    query_labels: np.ndarray
    relevant_counts: np.ndarray
    labels: ItemLabels
    tuning: tuple[np.ndarray, np.ndarray]
    depth: int
    higher_is_better: bool

    def measure(self, searching: SupportsSearch) -> SearchMeasurements:
        """One setting: its answers to all queries, then its speed."""
        start = time.process_time()
        scores, retrieved = self._search_batches(searching, min(K, self.depth))
        cpu_seconds = time.process_time() - start
        speed = measure_search_speed(searching, self.queries, threads=threads(searching), k=min(K, self.depth))
        return SearchMeasurements(
            single_query_p50_ms=speed["single_query_p50_ms"], single_query_p95_ms=speed["single_query_p95_ms"],
            batch_queries_per_second=speed["batch_queries_per_second"], batch_size=len(self.queries), threads=threads(searching),
            cpu_ms_per_query=cpu_seconds / len(self.queries) * 1000,
            ann_recall_at_10=float(ann_recall_at(retrieved, self.exact, K).mean()),
            ann_distance_recall_at_10=float(distance_recall_at(scores, retrieved, self.exact_scores, K, higher_is_better=self.higher_is_better).mean()),
            **self._measure_relevance(searching, retrieved),
        )  # fmt: skip

    def _measure_relevance(self, searching: SupportsSearch, retrieved: np.ndarray) -> dict[str, float | None]:
        scored = self.relevant_counts > 0
        if not scored.any():
            return {"precision_at_10": None, "recall_at_10": None, "map": None}
        _, deep = self._search_batches(searching, self.depth, scored)
        near, far = (self._measure_by_label(ids, scored) for ids in (retrieved[scored], deep))
        return {"precision_at_10": near["precision_at_10"], "recall_at_10": near["recall_at_10"], "map": far["map"]}

    def _measure_by_label(self, retrieved: np.ndarray, scored: np.ndarray) -> dict[str, float]:
        hits = self.labels.lookup(retrieved) == self.query_labels[scored, None]
        return {name: float(figures.mean()) for name, figures in compute_query_metrics(hits, self.relevant_counts[scored], (K,)).items()}

    def _search_batches(self, searching: SupportsSearch, k: int, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        queries = self.queries if mask is None else self.queries[mask]
        parts = [searching.search(queries[start : start + BATCH_QUERIES], k) for start in range(0, len(queries), BATCH_QUERIES)]
        scores, ids = (np.concatenate(side) for side in zip(*parts, strict=True))
        return scores, ids


def load_query_set(root: Root, config: PipelineConfig, embeddings: EmbeddingSet) -> QuerySet:
    """A seeded sample of the query side against the database side. Holds the queries and the labels of all items, and no database.

    Queries that are nearly an item of the database are left out where `split.leaks` says so. Raises InputError where none are left.
    """
    held, side = (
        embeddings.for_modality(config.index.modality),
        embeddings.for_modality(config.evaluation.query_modality or config.index.modality),
    )
    size, seed, metric = config.study.max_queries, config.index.seed, FAISS_METRICS[config.index.metric]
    with open_vectors(root, side, side="query", leaking=config.split.leaks == "keep", sample=(size + TUNING_QUERIES, seed)) as blocks:
        sampled_ids, sampled_queries = concatenate_blocks(blocks, side.dim)
    with open_vectors(root, side, side="query", leaking=config.split.leaks == "keep", sample=(size, seed)) as blocks:
        ids, queries = concatenate_blocks(blocks, side.dim)
    if not len(ids):
        raise InputError("nothing is held out as queries, so nothing can be compared", where=f"split of {config.name}",
                         next_step="choose split.mode hash or given; with split.leaks: keep, near copies are asked too")  # fmt: skip
    others = ~np.isin(sampled_ids, ids)
    tuning = sampled_queries[others] if others.sum() >= MIN_TUNING_QUERIES else queries
    with open_vectors(root, held, side="database") as blocks:
        scores, exact = exact_search(np.concatenate([queries, tuning]), blocks, K, metric)
    labels = ItemLabels(root, embeddings, held)
    query_labels = labels.lookup(ids)
    relevant_counts = np.where(query_labels == UNLABELED, 0, labels.count("database")[query_labels] if labels.names else 0)
    return QuerySet(
        queries, exact[: len(ids)], scores[: len(ids)], query_labels, relevant_counts, labels, (tuning, exact[len(ids) :]),
        min(max(config.evaluation.depth, K), held.database), metric == faiss.METRIC_INNER_PRODUCT,
    )  # fmt: skip


def threads(searching: SupportsSearch) -> int:
    """The threads that a search may use: FAISS's own, or for NumPy those of its matrix products."""
    if isinstance(searching, BruteForce):
        return max((int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    return int(faiss.omp_get_max_threads())
