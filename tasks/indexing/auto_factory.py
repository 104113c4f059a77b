"""Pick a FAISS factory for `index.factory: auto`.

The policy comes from measurements on 100,000 sentence embeddings (see docs/benchmarks.md):

- below FLAT_MAX_ITEMS, exact search is fast and has full recall;
- above it, fast-scan IVF-PQ with exact re-ranking from the mapped vectors and about 1.6 √n lists: fewer lists scan too
  much, more take longer to train and to probe;
- 4-bit codes, one for every 2 principal directions: two thirds of the dimensions preserve almost all of an inner
  product, half of them is the smaller option;
- with spilled assignments (every item in two lists), which are faster at twice the memory, and without;
- if none of these reaches the target, IVF lists of uncompressed vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import SearchParams
from indexmill.storage.records import EmbeddingSet, Rerank
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import FAISS_METRICS
from indexmill.tasks.indexing.reranking import make_store
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.soar import fill_index, train_soar
from indexmill.tasks.indexing.tuning import TuningResult, tune_search
from indexmill.tasks.metrics.exact_search import knn

FLAT_MAX_ITEMS = 10_000
LISTS_STEP = 64
LISTS_PER_SQRT_N = 1.6  # times √n
ID_BYTES = 8
DEFAULT_RECALL_TARGET = 0.95
TRIAL_MAX_ITEMS = 50_000  # items on which candidates are compared; fewer if index.train_memory is smaller
TRIAL_SAMPLE_COPIES = 4  # in memory: the sample, its vector store, and what training and filling hold
TUNING_QUERIES = 1000


@dataclass(frozen=True)
class IndexCandidate:
    """An index to compare. `subquantizers` is 0 and `pca_dims` None without codes.

    resident_bytes: the estimated bytes of memory per item of the served index, without the mapped vectors.
    """

    factory: str
    spill: bool
    rerank: Literal["none", "exact"]
    lists: int
    subquantizers: int
    pca_dims: int | None
    resident_bytes: float


@dataclass(frozen=True)
class FactoryChoice:
    """The chosen factory and re-ranking.

    soar_candidate: set if the index is trained by `soar` and not by FAISS's factory. comparison: one row per candidate,
    the best first; empty if there was nothing to compare.
    """

    factory: str
    rerank: Rerank
    soar_candidate: IndexCandidate | None = None
    comparison: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class ParetoRow:
    """A row of the comparison: a candidate, tuned for one target."""

    candidate: IndexCandidate
    tuned: TuningResult
    is_pareto_optimal: bool

    def to_json(self) -> dict[str, Any]:
        """Return the row as numbers, strings and booleans."""
        chosen = self.tuned.chosen
        return {
            **asdict(self.candidate),
            **chosen.params.model_dump(exclude={"spill"}, exclude_none=True),
            "recall": chosen.recall,
            "recall_bound": chosen.recall_lower_bound,
            "cpu_seconds_per_query": chosen.cpu_seconds_per_query,
            "target": self.tuned.target,
            "met": self.tuned.met,
            "is_pareto_optimal": self.is_pareto_optimal,
        }


def choose_factory(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> FactoryChoice:
    """Choose an index for these vectors.

    With held-out queries, candidates are built on a sample and tuned for the recall target.
    """
    candidates = propose_candidates(embeddings.database, embeddings.dim, config.memory_budget)
    size = min(embeddings.database, TRIAL_MAX_ITEMS, int(config.train_memory) // (4 * embeddings.dim * TRIAL_SAMPLE_COPIES))
    trial_budget = config.memory_budget and int(config.memory_budget * size / embeddings.database)
    trial_candidates = propose_candidates(size, embeddings.dim, trial_budget)
    if len(candidates) == 1 or len(trial_candidates) != len(candidates) or not embeddings.query:
        return _make_choice(candidates[0], config)
    trial = _prepare_trial(root, embeddings, config, size)
    results = [(candidate, trial.tune_candidate(candidate)) for candidate in trial_candidates]
    fallback = propose_uncompressed(embeddings.database, embeddings.dim)
    is_affordable = config.memory_budget is None or fallback.resident_bytes * embeddings.database <= config.memory_budget
    if is_affordable and not any(tuned.met for _, tuned in results):
        trial_fallback = propose_uncompressed(size, embeddings.dim)
        candidates, trial_candidates = [*candidates, fallback], [*trial_candidates, trial_fallback]
        results.append((trial_fallback, trial.tune_candidate(trial_fallback)))
    rows = rank_candidates(results)
    comparison = tuple(row.to_json() | {"measured_on": size} for row in rows)
    return _make_choice(candidates[trial_candidates.index(rows[0].candidate)], config, comparison)


def propose_candidates(n: int, dim: int, memory_budget: int | None = None) -> list[IndexCandidate]:
    """Propose candidates for n vectors, the most promising one first.

    Args:
        n: the number of vectors.
        dim: their dimension.
        memory_budget: the bytes of memory that the served index may take.

    Returns:
        At least one candidate. If none fits the budget, the smallest one, whose `resident_bytes` show it.
    """
    if n < FLAT_MAX_ITEMS:
        return [IndexCandidate("Flat", False, "none", 0, 0, None, 4 * dim + ID_BYTES)]
    lists = _choose_list_count(n)
    pca_dims_options = [even for share in (2 / 3, 1 / 2) if (even := 2 * round(dim * share / 2))]
    proposals = [_make_fast_scan_candidate(n, dim, lists, pca_dims, spill) for spill in (True, False) for pca_dims in pca_dims_options]
    affordable = [candidate for candidate in proposals if memory_budget is None or candidate.resident_bytes * n <= memory_budget]
    return affordable or [min(proposals, key=lambda candidate: candidate.resident_bytes)]


def propose_uncompressed(n: int, dim: int) -> IndexCandidate:
    """Propose lists of uncompressed vectors, for when no candidate with codes reaches the target.

    Vectors that vary equally in all directions have no principal directions, so codes preserve too little of them.
    """
    lists = _choose_list_count(n)
    return IndexCandidate(f"IVF{lists},Flat", False, "none", lists, 0, None, round(4 * dim + ID_BYTES + 4 * dim * lists / n, 1))


def rank_candidates(results: Sequence[tuple[IndexCandidate, TuningResult]]) -> list[ParetoRow]:
    """Rank the candidates: those that meet the target first, the fastest first among them; the others by recall.

    A row is Pareto-optimal if it meets the target and no other row that does is at least as good in both CPU time and
    memory and better in one of them.
    """
    rows = [
        ParetoRow(candidate, tuned, tuned.met and not any(_dominates(other, (candidate, tuned)) for other in results))
        for candidate, tuned in results
    ]
    return sorted(
        rows,
        key=lambda row: (
            not row.tuned.met,
            row.tuned.chosen.cpu_seconds_per_query if row.tuned.met else -row.tuned.chosen.recall_lower_bound,
        ),
    )


@dataclass(frozen=True)
class FactoryTrial:
    """A sample of the database (ids int64 (n,), vectors float32 (n, dim)), held-out queries, and their exact neighbors
    in the sample.
    """

    config: IndexConfig
    ids: np.ndarray
    sample: np.ndarray
    queries: np.ndarray
    exact: np.ndarray

    def tune_candidate(self, candidate: IndexCandidate) -> TuningResult:
        """Build the candidate on the sample, and tune it on the queries."""
        target = self.config.recall_target or DEFAULT_RECALL_TARGET
        return tune_search(self._build_searcher(candidate), self.queries, self.exact, target, k=self.exact.shape[1])

    def _build_searcher(self, candidate: IndexCandidate) -> Searcher:
        config = self.config
        if candidate.subquantizers:
            trained = train_soar(
                self.sample, candidate.lists, candidate.subquantizers, config.metric, seed=config.seed, pca_dims=candidate.pca_dims
            )
            index = fill_index(trained, [(self.ids, self.sample)], spill=candidate.spill)
            store = make_store(self.ids, self.sample, config.metric)
            return Searcher([index], config.metric, SearchParams(spill=candidate.spill), stores=[store])
        plain = faiss.index_factory(self.sample.shape[1], candidate.factory, FAISS_METRICS[config.metric])
        plain.train(self.sample[:: max(1, len(self.sample) // (config.train_points_per_list * candidate.lists))])
        plain.add_with_ids(self.sample, self.ids)
        return Searcher([plain], config.metric)


def _prepare_trial(root: Root, embeddings: EmbeddingSet, config: IndexConfig, size: int) -> FactoryTrial:
    with open_vectors(root, embeddings, side="database", sample=(size, config.seed)) as blocks:
        ids, sample = concatenate_blocks(blocks, embeddings.dim)
    with open_vectors(root, embeddings, side="query", sample=(TUNING_QUERIES, config.seed)) as blocks:
        _, queries = concatenate_blocks(blocks, embeddings.dim)
    exact = ids[knn(queries, sample, min(10, size), FAISS_METRICS[config.metric])[1]]
    return FactoryTrial(config, ids, sample, queries, exact)


def _make_choice(candidate: IndexCandidate, config: IndexConfig, comparison: tuple[dict[str, Any], ...] = ()) -> FactoryChoice:
    rerank = config.rerank if config.rerank != "none" else candidate.rerank
    return FactoryChoice(candidate.factory, rerank, candidate if candidate.subquantizers else None, comparison)


def _choose_list_count(n: int) -> int:
    return max(LISTS_STEP, round(LISTS_PER_SQRT_N * math.sqrt(n) / LISTS_STEP) * LISTS_STEP)


def _make_fast_scan_candidate(n: int, dim: int, lists: int, pca_dims: int, spill: bool) -> IndexCandidate:
    subquantizers = pca_dims // 2
    # Lists store whole blocks of 32 codes, so half a block per list is empty. Then there are the centroids, the
    # projection and row ids.
    list_bytes = (16 * subquantizers / 2 + 4 * pca_dims) * lists / n
    entry_bytes = subquantizers / 2 + ID_BYTES
    resident_bytes = (1 + spill) * entry_bytes + list_bytes + 4 * dim * pca_dims / n + ID_BYTES
    return IndexCandidate(
        factory=f"PCA{pca_dims},IVF{lists},PQ{subquantizers}x4fs",
        spill=spill,
        rerank="exact",
        lists=lists,
        subquantizers=subquantizers,
        pca_dims=pca_dims,
        resident_bytes=round(resident_bytes, 1),
    )


def _dominates(row: tuple[IndexCandidate, TuningResult], other: tuple[IndexCandidate, TuningResult]) -> bool:
    cost, other_cost = ((tuned.chosen.cpu_seconds_per_query, candidate.resident_bytes) for candidate, tuned in (row, other))
    return row[1].met and cost != other_cost and cost[0] <= other_cost[0] and cost[1] <= other_cost[1]
