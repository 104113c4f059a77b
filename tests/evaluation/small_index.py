"""A small index over random vectors, with its queries searched and judged."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np

from indexmill.storage.index_records import SearchParams
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.ground_truth import GroundTruth, TruthRequest, compute_ground_truth
from indexmill.tasks.evaluation.relevance import RelevanceJudge
from indexmill.tasks.evaluation.retrieval import RetrievalRun, run_queries
from indexmill.tasks.indexing.searcher import Searcher
from tests.evaluation.embedding_sets import write_embeddings

DIM = 16
METRIC = faiss.METRIC_INNER_PRODUCT


def make_unit_vectors(random: np.random.Generator, count: int) -> np.ndarray:
    """Random vectors of length 1, float32 (count, DIM)."""
    vectors = random.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class SmallIndex:
    """60 database items and 20 queries with four labels, some unlabeled; their index, searched to a depth of 40."""

    def __init__(self, root: Root, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.root = root
        self.vectors = make_unit_vectors(random, 80)
        sides: list[Side] = ["database"] * 60 + ["query"] * 20
        self.labels = [None if code == 4 else "abcd"[code] for code in random.integers(0, 5, 80)]
        self.embeddings: EmbeddingSet = write_embeddings(root, self.vectors, sides, self.labels)
        index = faiss.index_factory(DIM, "IVF8,Flat", METRIC)
        index.train(self.vectors[:60])
        index.add_with_ids(self.vectors[:60], np.arange(1, 61))
        self.searcher = Searcher([index], "cosine", SearchParams(nprobe=2))
        self.run = run_queries(self.searcher, np.arange(61, 81), self.vectors[60:], 10, 40)
        self.judge = RelevanceJudge(root, self.embeddings, self.embeddings)
        self.relevance = self.judge.judge_by_label(self.run, (1, 5, 10))

    def compute_ground_truth(
        self, folder: Path | None = None, *, indexed: EmbeddingSet | None = None, run: RetrievalRun | None = None
    ) -> GroundTruth:
        """The ten exact neighbors of each query."""
        run = run or self.run
        request = TruthRequest(indexed or self.embeddings, self.embeddings, run.query_ids, run.query_vectors, 10, METRIC)
        return compute_ground_truth(self.root, folder or self.root.path, request)
