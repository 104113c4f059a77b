"""Pick a FAISS factory for `index.factory: auto`.

The policy comes from measurements on 100,000 sentence embeddings (see docs/benchmarks.md):

- below FLAT_MAX_ITEMS, exact search is fast and has full recall;
- above it, fast-scan IVF-PQ with exact re-ranking from the mapped vectors and about 1.6 √n lists: fewer lists scan too much,
  more take longer to train and to probe;
- 4-bit codes, one for every 2 principal directions: two thirds of the dimensions keep almost all of an inner product,
  half of them is the smaller option;
- with spilled assignments (every item in two lists), which are faster at twice the memory, and without;
- if none of these reaches the target, IVF lists of uncompressed vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig, Rerank
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import FAISS_METRICS, knn
from indexmill.tasks.indexing.reranking import store
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.soar import fill_index, train_soar
from indexmill.tasks.indexing.tuning import TuningResult, tune

FLAT_MAX_ITEMS = 10_000
LISTS_STEP = 64
LISTS_PER_SQRT_N = 1.6  # times √n
ID_BYTES = 8


@dataclass(frozen=True)
class IndexCandidate:
    """An index that may be built. pieces and dims: of the codes; 0 and None without codes.

    resident_bytes: estimated memory an item when it is served; the mapped vectors are not counted.
    """

    factory: str
    spill: bool
    rerank: Literal["none", "exact"]
    lists: int
    subquantizers: int
    pca_dims: int | None
    resident_bytes: float


@dataclass(frozen=True)
class ParetoRow:
    """A line of the Pareto table: a candidate as tuned for one target."""

    candidate: IndexCandidate
    tuned: TuningResult
    is_pareto_optimal: bool

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings and flags only."""
        chosen = self.tuned.chosen
        params = chosen.params.model_dump(exclude={"spill"}, exclude_none=True)
        measured = {
            "recall": chosen.recall,
            "recall_bound": chosen.recall_lower_bound,
            "cpu_seconds_per_query": chosen.cpu_seconds_per_query,
        }
        return {
            **asdict(self.candidate),
            **params,
            **measured,
            "target": self.tuned.target,
            "met": self.tuned.met,
            "is_pareto_optimal": self.is_pareto_optimal,
        }


def propose_candidates(n: int, dim: int, memory_budget: int | None = None) -> list[IndexCandidate]:
    """The candidates for n vectors of `dim` numbers, the likely winner first; never none.

    memory_budget: bytes that the served index may take in memory. If none fits, the smallest alone is given: its `resident_bytes` say so.
    """
    if n < FLAT_MAX_ITEMS:
        return [IndexCandidate("Flat", False, "none", 0, 0, None, 4 * dim + ID_BYTES)]
    lists = _choose_list_count(n)
    widths = [even for share in (2 / 3, 1 / 2) if (even := 2 * round(dim * share / 2))]
    made = [_fast_scan_candidate(n, dim, lists, pca_dims, spill) for spill in (True, False) for pca_dims in widths]
    fitting = [one for one in made if memory_budget is None or one.resident_bytes * n <= memory_budget]
    return fitting or [min(made, key=lambda one: one.resident_bytes)]


def propose_uncompressed(n: int, dim: int) -> IndexCandidate:
    """What finds more than codes can, where no candidate finds enough: the vectors themselves in lists.

    Vectors that vary alike in all directions have no principal ones, and codes of theirs tell too little.
    """
    lists = _choose_list_count(n)
    return IndexCandidate(f"IVF{lists},Flat", False, "none", lists, 0, None, round(4 * dim + ID_BYTES + 4 * dim * lists / n, 1))


def rank_candidates(measured: Sequence[tuple[IndexCandidate, TuningResult]]) -> list[ParetoRow]:
    """All rows, those that meet the target first, the quickest first among them; on_front marks those that no other beats.

    A row is beaten by one that meets the target too, needs no more CPU time and no more memory, and less of one of them.
    """
    rows = [
        ParetoRow(candidate, tuned, tuned.met and not any(_dominates(other, (candidate, tuned)) for other in measured))
        for candidate, tuned in measured
    ]
    return sorted(
        rows,
        key=lambda row: (
            not row.tuned.met,
            row.tuned.chosen.cpu_seconds_per_query if row.tuned.met else -row.tuned.chosen.recall_lower_bound,
        ),
    )


def _choose_list_count(n: int) -> int:
    return max(LISTS_STEP, round(LISTS_PER_SQRT_N * math.sqrt(n) / LISTS_STEP) * LISTS_STEP)


def _fast_scan_candidate(n: int, dim: int, lists: int, pca_dims: int, spill: bool) -> IndexCandidate:
    subquantizers = pca_dims // 2
    # A list is stored in whole blocks of 32 codes: half a block a list is empty. Beside it: centroids, projection, and the row's item id.
    a_list = (16 * subquantizers / 2 + 4 * pca_dims) * lists / n
    entry = subquantizers / 2 + ID_BYTES
    resident = (1 + spill) * entry + a_list + 4 * dim * pca_dims / n + ID_BYTES
    return IndexCandidate(
        f"PCA{pca_dims},IVF{lists},PQ{subquantizers}x4fs", spill, "exact", lists, subquantizers, pca_dims, round(resident, 1)
    )


def _dominates(one: tuple[IndexCandidate, TuningResult], other: tuple[IndexCandidate, TuningResult]) -> bool:
    (candidate, tuned), (worse, slower) = one, other
    left = (tuned.chosen.cpu_seconds_per_query, candidate.resident_bytes)
    right = (slower.chosen.cpu_seconds_per_query, worse.resident_bytes)
    return tuned.met and left != right and left[0] <= right[0] and left[1] <= right[1]


DEFAULT_RECALL_TARGET = 0.95
TRIAL_MAX_ITEMS = 50_000  # items, at most, that the candidates are compared on; fewer where index.train_memory holds fewer
TUNING_QUERIES = 1000
TRIAL_SAMPLE_COPIES = 4  # of the sample: ours, the mapped one's stand-in, and what training and filling hold


@dataclass(frozen=True)
class FactoryChoice:
    """factory: FAISS's name for it. own: the candidate, when the index is of our own making (`tasks.indexing.soar`) and not the factory's.

    table: what each candidate did, the winner first; empty where there was nothing to compare.
    """

    factory: str
    rerank: Rerank
    soar_candidate: IndexCandidate | None = None
    table: tuple[dict[str, Any], ...] = field(default=())


def choose_factory(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> FactoryChoice:
    """The index for these vectors. With `auto` and held-out queries, candidates are built on a sample and tuned for the target."""
    if config.factory != "auto":
        return FactoryChoice(config.factory, config.rerank)
    wanted = propose_candidates(embeddings.database, embeddings.dim, config.memory_budget)
    size = min(embeddings.database, TRIAL_MAX_ITEMS, int(config.train_memory) // (4 * embeddings.dim * TRIAL_SAMPLE_COPIES))
    tried = propose_candidates(size, embeddings.dim, config.memory_budget and int(config.memory_budget * size / embeddings.database))
    if len(wanted) == 1 or len(tried) != len(wanted) or not embeddings.query:
        return _make_choice(wanted[0], config)
    trial = _prepare_trial(root, embeddings, config, size)
    measured = [(one, trial.tuned(one)) for one in tried]
    last = propose_uncompressed(embeddings.database, embeddings.dim)
    allowed = config.memory_budget is None or last.resident_bytes * embeddings.database <= config.memory_budget
    if allowed and not any(tuned.met for _, tuned in measured):
        wanted, tried = [*wanted, last], [*tried, propose_uncompressed(size, embeddings.dim)]
        measured.append((tried[-1], trial.tuned(tried[-1])))
    rows = rank_candidates(measured)
    table = tuple(row.to_json() | {"measured_on": size} for row in rows)
    return _make_choice(wanted[tried.index(rows[0].candidate)], config, table)


def train_candidate(candidate: IndexCandidate, sample: np.ndarray, config: IndexConfig) -> Any:
    """The candidate, trained and empty. Raises RuntimeError, as FAISS does, when the sample is too small."""
    return train_soar(sample, candidate.lists, candidate.subquantizers, config.metric, seed=config.seed, pca_dims=candidate.pca_dims)


def _make_choice(candidate: IndexCandidate, config: IndexConfig, table: tuple[dict[str, Any], ...] = ()) -> FactoryChoice:
    rerank = config.rerank if config.rerank != "none" else candidate.rerank
    return FactoryChoice(candidate.factory, rerank, candidate if candidate.subquantizers else None, table)


@dataclass(frozen=True)
class FactoryTrial:
    """A sample of the database (ids int64 (n,), vectors float32 (n, dim)), held-out queries, and their exact neighbours in it."""

    config: IndexConfig
    ids: np.ndarray
    sample: np.ndarray
    queries: np.ndarray
    exact: np.ndarray

    def tuned(self, one: IndexCandidate) -> TuningResult:
        """Build the candidate on the sample, and tune it on the queries."""
        target = self.config.recall_target or DEFAULT_RECALL_TARGET
        return tune(self._build_searcher(one), self.queries, self.exact, target, k=self.exact.shape[1])

    def _build_searcher(self, one: IndexCandidate) -> Searcher:
        config, metric = self.config, FAISS_METRICS[self.config.metric]
        if one.subquantizers:
            index = fill_index(train_candidate(one, self.sample, config), [(self.ids, self.sample)], spill=one.spill)
            return Searcher([index], config.metric, stores=[store(self.ids, self.sample, config.metric)], spill=one.spill)
        plain = faiss.index_factory(self.sample.shape[1], one.factory, metric)
        plain.train(self.sample[:: max(1, len(self.sample) // (config.train_points_per_list * one.lists))])
        plain.add_with_ids(self.sample, self.ids)
        return Searcher([plain], config.metric)


def _prepare_trial(root: Root, embeddings: EmbeddingSet, config: IndexConfig, size: int) -> FactoryTrial:
    with open_vectors(root, embeddings, side="database", sample=(size, config.seed)) as blocks:
        ids, sample = concatenate_blocks(blocks, embeddings.dim)
    with open_vectors(root, embeddings, side="query", sample=(TUNING_QUERIES, config.seed)) as blocks:
        _, queries = concatenate_blocks(blocks, embeddings.dim)
    exact = ids[knn(queries, sample, min(10, size), FAISS_METRICS[config.metric])[1]]
    return FactoryTrial(config, ids, sample, queries, exact)
