"""One set of queries with its rankings, the exact ones, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from indexmill.configs.models import EvaluationConfig
from indexmill.storage.records import EmbeddingSet, EncodedQueries, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.ground_truth import GroundTruth, TruthRequest, compute_ground_truth
from indexmill.tasks.evaluation.own_queries import find_tied_ids, load_names, load_qrels, load_query_vectors, order_ties, quote_spaces
from indexmill.tasks.evaluation.relevance import RelevanceJudge, RelevanceResult, judge_by_judgements
from indexmill.tasks.evaluation.retrieval import (
    RetrievalRun,
    choose_cutoffs,
    compute_ann_metrics,
    run_queries,
)
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.runner import LOCAL_RUNNER, Runner


class Judgment(NamedTuple):
    """The rankings of one set of queries, the exact ones, and how good they are.

    Attributes:
        searcher: The index.
        judge: The labels and groups of the items.
        run: The rankings.
        ground_truth: The exact ones.
        ann_metrics: One float64 (queries,) array per metric of agreement.
        relevance: Which results are relevant.
        own: The set, if the queries are one's own; None for held-out items.
    """

    searcher: Searcher
    judge: RelevanceJudge
    run: RetrievalRun
    ground_truth: GroundTruth
    ann_metrics: dict[str, np.ndarray]
    relevance: RelevanceResult
    own: EncodedQueries | None = None

    @property
    def prefix(self) -> str:
        """What precedes the names of the set's metrics: nothing for the main set."""
        return f"{self.own.name}/" if self.own and self.own.name else ""


def judge_held_out(
    root: Root,
    folder: Path,
    judge: RelevanceJudge,
    searcher: Searcher,
    *,
    queries: EmbeddingSet,
    query_ids: np.ndarray,
    query_vectors: np.ndarray,
    config: EvaluationConfig,
    pairs: FileRef | None,
    runner: Runner = LOCAL_RUNNER,
) -> Judgment:
    """Search the index and the vectors themselves, and judge the rankings. Without a source of relevance, rankings end at the largest k."""
    needs_depth = config.trec or judge.has_relevance_source(pairs, config.relevance_threshold)
    run, ks = _search(judge, searcher, query_ids, query_vectors, config, needs_depth=needs_depth)
    ground_truth = _search_exactly(root, folder, judge, searcher, queries, run, ks, runner)
    ann_metrics = compute_ann_metrics(run, ground_truth, ks, searcher.metric)
    return Judgment(searcher, judge, run, ground_truth, ann_metrics, judge.judge(run, config.k, pairs, config.relevance_threshold))


def judge_own(
    root: Root,
    folder: Path,
    judge: RelevanceJudge,
    searcher: Searcher,
    query_set: EncodedQueries,
    config: EvaluationConfig,
    runner: Runner = LOCAL_RUNNER,
    *,
    include_leaks: bool,
    seed: int,
) -> Judgment:
    """Search for one set of one's own queries, and judge the rankings by its judgements, in the order of trec_eval."""
    query_ids, vectors = load_query_vectors(root, query_set, max_queries=config.max_queries, include_leaks=include_leaks, seed=seed)
    needs_depth = config.trec or query_set.judgements is not None
    run, ks = _search(judge, searcher, query_ids, vectors, config, needs_depth=needs_depth)
    tied_names = load_names(root, judge.indexed, find_tied_ids(run))
    run = order_ties(run, {item: quote_spaces(name) for item, name in tied_names.items()})
    ground_truth = _search_exactly(root, folder, judge, searcher, query_set.embeddings, run, ks, runner, purpose=query_set.name)
    ann_metrics = compute_ann_metrics(run, ground_truth, ks, searcher.metric)
    relevance = judge_by_judgements(run, config.k, load_qrels(root, query_set.judgements, query_ids))
    return Judgment(searcher, judge, run, ground_truth, ann_metrics, relevance, query_set)


def count_queries(judgments: list[Judgment]) -> dict[str, int]:
    """Count the queries of every set, and what became of those and of the judgements that were read."""
    counts: dict[str, int] = {}
    for judgment in judgments:
        read: Mapping[str, int] = judgment.own.counts if judgment.own else {}
        measured = {"queries": len(judgment.run.query_ids), "queries_judged": int(judgment.relevance.judged.sum())}
        counts |= {judgment.prefix + name: count for name, count in ({**read, **measured}).items()}
    return counts


def _search(
    judge: RelevanceJudge,
    searcher: Searcher,
    query_ids: np.ndarray,
    query_vectors: np.ndarray,
    config: EvaluationConfig,
    *,
    needs_depth: bool,
) -> tuple[RetrievalRun, list[int]]:
    """Search the index. Returns the rankings, and the cutoffs that the database is large enough for."""
    database = judge.indexed.database
    ks = choose_cutoffs(config.k, database)
    k = max(ks, default=1)
    return run_queries(searcher, query_ids, query_vectors, k, min(config.depth, database) if needs_depth else k), ks


def _search_exactly(
    root: Root,
    folder: Path,
    judge: RelevanceJudge,
    searcher: Searcher,
    queries: EmbeddingSet,
    run: RetrievalRun,
    ks: list[int],
    runner: Runner,
    *,
    purpose: str = "",
) -> GroundTruth:
    request = TruthRequest(
        indexed=judge.indexed,
        query_embeddings=queries,
        query_ids=run.query_ids,
        query_vectors=run.query_vectors,
        k=max(ks, default=1),
        metric=searcher.metric,
        purpose=purpose,
        searcher=searcher,
    )
    return compute_ground_truth(root, folder, request, runner)
