"""Evaluate: the held-out queries against the database side, for relevance, agreement with exact search, embedding space, and speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from prefect import task

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.models import EvaluationConfig, IndexConfig
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.canary import check_canaries
from indexmill.tasks.evaluation.encode_latency import load_or_measure_encode_latency
from indexmill.tasks.evaluation.extra_metrics import compute_full_ranking_map, correlate_scored_pairs, evaluate_captions
from indexmill.tasks.evaluation.projection import project_embedding_space
from indexmill.tasks.evaluation.relevance import RelevanceJudge, RelevanceResult, aggregate_metrics
from indexmill.tasks.evaluation.report_data import build_report_data
from indexmill.tasks.evaluation.retrieval import (
    GroundTruth,
    RetrievalRun,
    choose_cutoffs,
    compute_ann_metrics,
    compute_ground_truth,
    run_queries,
)
from indexmill.tasks.evaluation.search_sweep import sweep_search_params
from indexmill.tasks.evaluation.tables import write_per_label, write_per_query, write_search_sweep
from indexmill.tasks.evaluation.trec import write_qrels, write_run
from indexmill.tasks.gpu_slot import acquire_gpu_slot
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.metrics.latency import bytes_per_vector, measure_search_speed
from indexmill.tasks.progress import track
from indexmill.tasks.stage_policy import get_task_options


class _Judgment(NamedTuple):
    """The rankings of all queries, the exact ones, and how good they are."""

    searcher: Searcher
    judge: RelevanceJudge
    run: RetrievalRun
    ground_truth: GroundTruth
    ann_metrics: dict[str, np.ndarray]
    relevance: RelevanceResult


@task(**get_task_options("evaluate"))
def evaluate(
    root: Root,
    *,
    name: str,
    embeddings: EmbeddingSet,
    trained: TrainedIndex,
    shards: IndexShards,
    tuned: TunedIndex,
    index: IndexConfig,
    encoder: EncoderConfig,
    config: EvaluationConfig,
    leaks: str,
    image_root: str | None,
    pairs: FileRef | None,
) -> Evaluation:
    """Measure the index with the held-out queries; write tables per query and per label, and the report's data.

    `leaks: exclude` leaves out queries that are nearly a copy of an item in the database. Without queries, few metrics
    can be measured.

    Raises:
        InputError: The index does not find its own items (`tasks.evaluation.canary`).
    """
    indexed = embeddings.for_modality(index.modality)
    queries = embeddings.for_modality(config.query_modality or index.modality)
    include_leaks = leaks == "keep"
    folder = root.index(name) / "evaluations"
    searcher = open_searcher(shards.shards, root.file, index.metric, tuned.params)
    canaries = check_canaries(root, indexed, searcher, seed=index.seed, factory=trained.factory, metric=index.metric)
    judge = RelevanceJudge(root, embeddings, indexed)
    with open_vectors(root, queries, side="query", leaking=include_leaks, sample=(config.max_queries, index.seed)) as blocks:
        query_ids, query_vectors = concatenate_blocks(blocks, queries.dim)
    judgment = _search_and_judge(
        root, folder, judge, searcher, queries=queries, query_ids=query_ids, query_vectors=query_vectors, config=config, pairs=pairs
    )
    metrics, intervals = aggregate_metrics(judgment.relevance, judgment.ann_metrics)
    full_ranking = compute_full_ranking_map(root, judge, judgment.run, judgment.relevance, index)
    projection = _project_embedding_space(root, indexed, judge, index.seed, config.projection_seconds)
    metrics |= full_ranking.metrics
    metrics |= evaluate_captions(root, embeddings, include_leaks=include_leaks, max_items=config.max_queries, seed=index.seed)
    metrics |= {key: projection[key] for key in ("knn_purity_at_10", "silhouette") if projection.get(key) is not None}
    scored_pairs = correlate_scored_pairs(root, embeddings, pairs) if pairs else {}
    timings = measure_search_speed(searcher, query_vectors, threads=faiss.omp_get_max_threads())
    timings |= load_or_measure_encode_latency(
        root, queries, encoder, image_root, config.encode_latency_queries, gpu_slot=acquire_gpu_slot()
    )
    timings["bytes_per_vector"] = bytes_per_vector([shard.index.size for shard in shards.shards], indexed.database)
    configs = [index.model_dump(mode="json"), config.model_dump(mode="json")]
    digest = json_digest([embeddings.digest, tuned.digest, *configs, leaks, metrics, scored_pairs])
    sweep = sweep_search_params(searcher, judgment.run, judgment.ground_truth, tuned.params)
    report_data = {"space": projection, "sweep": sweep}
    files = _write_files(
        root, folder / digest[:16], judgment, embeddings=embeddings, trained=trained, report_data=report_data, config=config, pairs=pairs
    )
    return Evaluation(
        digest=digest,
        files=(*files.values(), judgment.ground_truth.file),
        shards=shards.digest,
        relevance_source=judgment.relevance.source,
        metrics=metrics,
        intervals=intervals,
        scored_pairs=scored_pairs,
        timings=timings,
        counts=_count(judgment, shards)
        | {"queries_full_depth": full_ranking.queries, "canaries": canaries.sampled, "canaries_found": canaries.found},
        per_query=files["per_query.parquet"],
        per_label=files["per_label.parquet"],
        search_sweep=files["search_sweep.parquet"],
        report_data=files["report_data.json"],
        ground_truth=judgment.ground_truth.file,
        trec=tuple(ref for name, ref in files.items() if name.endswith(".trec")),
    )


def _search_and_judge(
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
) -> _Judgment:
    """Search the index and the vectors themselves, and judge the rankings. Without a source of relevance, rankings end at the largest k."""
    database = judge.indexed.database
    ks = choose_cutoffs(config.k, database)
    k = max(ks, default=1)
    needs_depth = config.trec or judge.has_relevance_source(pairs, config.relevance_threshold)
    run = run_queries(searcher, query_ids, query_vectors, k, min(config.depth, database) if needs_depth else k)
    ground_truth = compute_ground_truth(root, folder, indexed=judge.indexed, query_embeddings=queries, run=run, k=k, metric=searcher.metric)
    ann_metrics = compute_ann_metrics(run, ground_truth, ks, searcher.metric)
    return _Judgment(searcher, judge, run, ground_truth, ann_metrics, judge.judge(run, config.k, pairs, config.relevance_threshold))


def _write_files(
    root: Root,
    folder: Path,
    judgment: _Judgment,
    *,
    embeddings: EmbeddingSet,
    trained: TrainedIndex,
    report_data: dict[str, Any],
    config: EvaluationConfig,
    pairs: FileRef | None,
) -> dict[str, FileRef]:
    """Write the tables, the report's data and, if the config asks for them, trec_eval's files to `folder`."""
    with root.scratch.staging() as staging:
        write_search_sweep(staging / "search_sweep.parquet", report_data["sweep"], trained.factory, trained.rerank)
        report_data = _write_query_tables(root, staging, embeddings, judgment, config.examples) | report_data
        (staging / "report_data.json").write_text(json.dumps(report_data, ensure_ascii=False), encoding="utf-8")
        if config.trec:
            indexed = judgment.judge.indexed
            write_run(staging / "run.trec", judgment.run, judgment.searcher.higher_is_better)
            write_qrels(staging / "qrels.trec", root, indexed, staging / "per_query.parquet", pairs, config.relevance_threshold)
        return _commit_files(root, staging, folder)


def _write_query_tables(root: Root, staging: Path, embeddings: EmbeddingSet, judgment: _Judgment, examples: int) -> dict[str, Any]:
    """Write per_query.parquet and per_label.parquet; returns what the report shows of the queries."""
    judge, run, relevance = judgment.judge, judgment.run, judgment.relevance
    write_per_query(staging / "per_query.parquet", run, judge, relevance, judgment.ann_metrics)
    label_rows = write_per_label(staging / "per_label.parquet", judge, relevance)
    return build_report_data(
        root, embeddings=embeddings, run=run, judge=judge, relevance=relevance, label_rows=label_rows, examples=examples
    )


def _count(judgment: _Judgment, shards: IndexShards) -> dict[str, int]:
    judge = judgment.judge
    return {
        "queries": len(judgment.run.query_ids),
        "queries_judged": int(judgment.relevance.judged.sum()),
        "database": judge.indexed.database,
        "depth": judgment.run.retrieved.shape[1],
        "dim": judge.indexed.dim,
        "labels": len(judge.labels.names),
        "index_bytes": sum(shard.index.size for shard in shards.shards),
    }


def _project_embedding_space(root: Root, indexed: EmbeddingSet, judge: RelevanceJudge, seed: int, seconds: float) -> dict[str, Any]:
    """Project the embedding space. Leaves out how long it took, which would differ from run to run."""
    with track("projecting the embedding space", 1) as advance:
        projection = project_embedding_space(root, indexed, judge.labels, seed=seed, seconds=seconds)
        advance(1)
    return {name: value for name, value in projection.items() if name != "tsne_seconds"}


def _commit_files(root: Root, staging: Path, folder: Path) -> dict[str, FileRef]:
    """Move every file of `staging` into `folder`."""
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        commit(staging / name, folder / name)
    return {name: root.make_ref(folder / name) for name in names}
