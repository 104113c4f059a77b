"""What an index shall be: the config's own factory, or for `auto` the candidate that answers quickest at the recall asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig, Rerank
from indexmill.storage.embeddings import joined, vectors
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexes.choice import Candidate, candidates, pareto, uncoded
from indexmill.tasks.indexes.factory import METRICS
from indexmill.tasks.indexes.gpu import knn
from indexmill.tasks.indexes.rerank import store
from indexmill.tasks.indexes.searcher import Searcher
from indexmill.tasks.indexes.spill import filled, train_spilled
from indexmill.tasks.indexes.tuning import Tuned, tune

RECALL_TARGET = 0.95
TRIED_ON = 50_000  # items, at most, that the candidates are compared on; fewer where index.train_memory holds fewer
QUERIES = 1000
COPIES = 4  # of the sample: ours, the mapped one's stand-in, and what training and filling hold


@dataclass(frozen=True)
class Chosen:
    """factory: FAISS's name for it. own: the candidate, when the index is of our own making (`tasks.indexes.spill`) and not the factory's.

    table: what each candidate did, the winner first; empty where there was nothing to compare.
    """

    factory: str
    rerank: Rerank
    own: Candidate | None = None
    table: tuple[dict[str, Any], ...] = field(default=())


def choose(root: Root, embeddings: EmbeddingSet, config: IndexConfig) -> Chosen:
    """The index for these vectors. With `auto` and held-out queries, candidates are built on a sample and tuned for the target."""
    if config.factory != "auto":
        return Chosen(config.factory, config.rerank)
    wanted = candidates(embeddings.database, embeddings.dim, config.memory_budget)
    size = min(embeddings.database, TRIED_ON, int(config.train_memory) // (4 * embeddings.dim * COPIES))
    tried = candidates(size, embeddings.dim, config.memory_budget and int(config.memory_budget * size / embeddings.database))
    if len(wanted) == 1 or len(tried) != len(wanted) or not embeddings.query:
        return _chosen(wanted[0], config)
    trial = _trial(root, embeddings, config, size)
    measured = [(one, trial.tuned(one)) for one in tried]
    last = uncoded(embeddings.database, embeddings.dim)
    allowed = config.memory_budget is None or last.resident_bytes * embeddings.database <= config.memory_budget
    if allowed and not any(tuned.met for _, tuned in measured):
        wanted, tried = [*wanted, last], [*tried, uncoded(size, embeddings.dim)]
        measured.append((tried[-1], trial.tuned(tried[-1])))
    rows = pareto(measured)
    table = tuple(row.as_json() | {"measured_on": size} for row in rows)
    return _chosen(wanted[tried.index(rows[0].candidate)], config, table)


def train_own(candidate: Candidate, sample: np.ndarray, config: IndexConfig) -> Any:
    """The candidate, trained and empty. Raises RuntimeError, as FAISS does, when the sample is too small."""
    return train_spilled(sample, candidate.lists, candidate.pieces, config.metric, seed=config.seed, dims=candidate.dims)


def _chosen(candidate: Candidate, config: IndexConfig, table: tuple[dict[str, Any], ...] = ()) -> Chosen:
    rerank = config.rerank if config.rerank != "none" else candidate.rerank
    return Chosen(candidate.factory, rerank, candidate if candidate.pieces else None, table)


@dataclass(frozen=True)
class Trial:
    """A sample of the database (ids int64 (n,), vectors float32 (n, dim)), held-out queries, and their exact neighbours in it."""

    config: IndexConfig
    ids: np.ndarray
    sample: np.ndarray
    queries: np.ndarray
    exact: np.ndarray

    def tuned(self, one: Candidate) -> Tuned:
        """Build the candidate on the sample, and tune it on the queries."""
        target = self.config.recall_target or RECALL_TARGET
        return tune(self._searcher(one), self.queries, self.exact, target, k=self.exact.shape[1])

    def _searcher(self, one: Candidate) -> Searcher:
        config, metric = self.config, METRICS[self.config.metric]
        if one.pieces:
            index = filled(train_own(one, self.sample, config), [(self.ids, self.sample)], spill=one.spill)
            return Searcher([index], config.metric, stores=[store(self.ids, self.sample, config.metric)], spill=one.spill)
        plain = faiss.index_factory(self.sample.shape[1], one.factory, metric)
        plain.train(self.sample[:: max(1, len(self.sample) // (config.train_points_per_list * one.lists))])
        plain.add_with_ids(self.sample, self.ids)
        return Searcher([plain], config.metric)


def _trial(root: Root, embeddings: EmbeddingSet, config: IndexConfig, size: int) -> Trial:
    with vectors(root, embeddings, side="database", sample=(size, config.seed)) as blocks:
        ids, sample = joined(blocks, embeddings.dim)
    with vectors(root, embeddings, side="query", sample=(QUERIES, config.seed)) as blocks:
        _, queries = joined(blocks, embeddings.dim)
    exact = ids[knn(queries, sample, min(10, size), METRICS[config.metric])[1]]
    return Trial(config, ids, sample, queries, exact)
