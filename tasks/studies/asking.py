"""What the indexes of a study are asked, and what is right: held-out queries, their exact neighbours, their labels."""

from __future__ import annotations

import time
from dataclasses import dataclass

import faiss
import numpy as np
from threadpoolctl import threadpool_info

from indexmill.configs.models import PipelineConfig
from indexmill.storage.embeddings import joined, vectors
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexes.choosing import QUERIES
from indexmill.tasks.indexes.factory import METRICS
from indexmill.tasks.measures.labels import UNLABELLED, Labels
from indexmill.tasks.measures.neighbours import distance_recall_at, exact_search, overlap_at
from indexmill.tasks.measures.per_query import per_query
from indexmill.tasks.measures.speed import Searching, search_speed
from indexmill.tasks.studies.brute_force import BruteForce
from indexmill.tasks.studies.rows import Figures

K = 10
QUERIES_AT_ONCE = 256
TO_TUNE_ON = 100  # other queries, at least; with fewer, settings are tuned on those that are measured


@dataclass(frozen=True)
class Asked:
    """queries: float32 (n, dim); exact: ids int64 (n, K), exact_scores: float32 (n, K), both of exact search; wanted: label codes (n,),
    relevant: items of the database with that label (n,). tuning: other queries and their exact neighbours. depth: that `map` looks to.
    """

    queries: np.ndarray
    exact: np.ndarray
    exact_scores: np.ndarray
    wanted: np.ndarray
    relevant: np.ndarray
    labels: Labels
    tuning: tuple[np.ndarray, np.ndarray]
    depth: int
    larger: bool

    def measure(self, searching: Searching) -> Figures:
        """One setting: its answers to all queries, then its speed."""
        start = time.process_time()
        scores, found = self._search(searching, min(K, self.depth))
        cpu_seconds = time.process_time() - start
        speed = search_speed(searching, self.queries, k=min(K, self.depth))
        return Figures(
            single_query_p50_ms=speed["single_query_p50_ms"], single_query_p95_ms=speed["single_query_p95_ms"],
            batch_queries_per_second=speed["batch_queries_per_second"], batch_size=len(self.queries), threads=threads(searching),
            cpu_ms_a_query=cpu_seconds / len(self.queries) * 1000,
            ann_recall_at_10=float(overlap_at(found, self.exact, K).mean()),
            ann_distance_recall_at_10=float(distance_recall_at(scores, found, self.exact_scores, K, larger=self.larger).mean()),
            **self._relevance(searching, found),
        )  # fmt: skip

    def _relevance(self, searching: Searching, found: np.ndarray) -> dict[str, float | None]:
        judged = self.relevant > 0
        if not judged.any():
            return {"precision_at_10": None, "recall_at_10": None, "map": None}
        _, deep = self._search(searching, self.depth, judged)
        near, far = (self._by_label(ids, judged) for ids in (found[judged], deep))
        return {"precision_at_10": near["precision_at_10"], "recall_at_10": near["recall_at_10"], "map": far["map"]}

    def _by_label(self, found: np.ndarray, judged: np.ndarray) -> dict[str, float]:
        hits = self.labels.of(found) == self.wanted[judged, None]
        return {name: float(figures.mean()) for name, figures in per_query(hits, self.relevant[judged], (K,)).items()}

    def _search(self, searching: Searching, k: int, which: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        queries = self.queries if which is None else self.queries[which]
        parts = [searching.search(queries[start : start + QUERIES_AT_ONCE], k) for start in range(0, len(queries), QUERIES_AT_ONCE)]
        scores, ids = (np.concatenate(side) for side in zip(*parts, strict=True))
        return scores, ids


def asked(root: Root, config: PipelineConfig, embeddings: EmbeddingSet) -> Asked:
    """A seeded sample of the query side against the database side. Holds the queries and the labels of all items, and no database.

    Queries that are nearly an item of the database are left out where `split.leaks` says so. Raises InputError where none are left.
    """
    held, side = embeddings.of(config.index.holds), embeddings.of(config.evaluation.asks or config.index.holds)
    size, seed, metric = config.study.max_queries, config.index.seed, METRICS[config.index.metric]
    with vectors(root, side, side="query", leaking=config.split.leaks == "keep", sample=(size + QUERIES, seed)) as blocks:
        every, everything = joined(blocks, side.dim)
    with vectors(root, side, side="query", leaking=config.split.leaks == "keep", sample=(size, seed)) as blocks:
        ids, queries = joined(blocks, side.dim)
    if not len(ids):
        raise InputError("nothing is held out as queries, so nothing can be compared", where=f"split of {config.name}",
                         next_step="choose split.mode hash or given; with split.leaks: keep, near copies are asked too")  # fmt: skip
    others = ~np.isin(every, ids)
    tuning = everything[others] if others.sum() >= TO_TUNE_ON else queries
    with vectors(root, held, side="database") as blocks:
        scores, exact = exact_search(np.concatenate([queries, tuning]), blocks, K, metric)
    labels = Labels(root, embeddings, held)
    wanted = labels.of(ids)
    relevant = np.where(wanted == UNLABELLED, 0, labels.count("database")[wanted] if labels.names else 0)
    return Asked(
        queries, exact[: len(ids)], scores[: len(ids)], wanted, relevant, labels, (tuning, exact[len(ids) :]),
        min(max(config.evaluation.depth, K), held.database), metric == faiss.METRIC_INNER_PRODUCT,
    )  # fmt: skip


def threads(searching: Searching) -> int:
    """The threads that a search may use: FAISS's own, or for NumPy those of its matrix products."""
    if isinstance(searching, BruteForce):
        return max((int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)
    return int(faiss.omp_get_max_threads())
