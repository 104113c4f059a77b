"""Evaluate: the held-out queries against the database side, for relevance, agreement with exact search, the space, and speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
from prefect import task

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.models import EvaluationConfig, IndexConfig
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.encode_latency import load_or_measure_encode_latency
from indexmill.tasks.evaluation.extra_metrics import compute_full_ranking_map, correlate_scored_pairs, evaluate_captions
from indexmill.tasks.evaluation.projection import project_embedding_space
from indexmill.tasks.evaluation.relevance import RelevanceJudge, aggregate_metrics
from indexmill.tasks.evaluation.report_data import build_report_data
from indexmill.tasks.evaluation.retrieval import choose_cutoffs, compute_ann_metrics, compute_ground_truth, run_queries
from indexmill.tasks.evaluation.search_sweep import sweep_search_params
from indexmill.tasks.evaluation.tables import write_per_label, write_per_query, write_search_sweep
from indexmill.tasks.evaluation.trec import write_qrels, write_run
from indexmill.tasks.gpu_slot import acquire_gpu_slot
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.metrics.latency import bytes_per_vector, measure_search_speed
from indexmill.tasks.progress import track
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("evaluate"))
def evaluate(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, shards: IndexShards, tuned: TunedIndex,
    index: IndexConfig, encoder: EncoderConfig, config: EvaluationConfig, leaks: str, image_root: str | None, pairs: FileRef | None,
) -> Evaluation:  # fmt: skip
    """Figures, a row a query and a label, and what the report draws. Without queries there are hardly any.

    leaks: `exclude` asks only queries that are not nearly an item of the database. base: the folder of images. pairs: scored pairs.
    """
    indexed, query_embeddings = embeddings.for_modality(index.modality), embeddings.for_modality(config.query_modality or index.modality)
    searcher = open_searcher(shards.shards, root.file, index.metric, tuned.params)
    ks, relevance_judge = choose_cutoffs(config.k, indexed.database), RelevanceJudge(root, embeddings, indexed)
    most = max(ks, default=1)
    depth = (
        min(config.depth, indexed.database)
        if config.trec or relevance_judge.has_relevance_source(pairs, config.relevance_threshold)
        else most
    )
    with open_vectors(root, query_embeddings, side="query", leaking=leaks == "keep", sample=(config.max_queries, index.seed)) as blocks:
        run = run_queries(searcher, *concatenate_blocks(blocks, query_embeddings.dim), most, depth)
    ground_truth = compute_ground_truth(root, root.index(name) / "evaluations", indexed, query_embeddings, run, most, searcher.metric)
    ann_metrics = compute_ann_metrics(run, ground_truth, ks, searcher.metric)
    judged = relevance_judge.judged(run, config.k, pairs, config.relevance_threshold)
    metrics, bounds = aggregate_metrics(judged, ann_metrics)
    full_ranking = compute_full_ranking_map(root, relevance_judge, run, judged, index)
    space = _project_embedding_space(root, indexed, relevance_judge, index.seed, config.projection_seconds)
    metrics |= full_ranking.metrics | evaluate_captions(root, embeddings, leaking=leaks == "keep", most=config.max_queries, seed=index.seed)
    metrics |= {name: space[name] for name in ("knn_purity_at_10", "silhouette") if space.get(name) is not None}
    pair_correlations = correlate_scored_pairs(root, embeddings, pairs) if pairs else {}
    counts = {"queries": len(run.ids), "queries_judged": int(judged.judged.sum()), "queries_full_depth": full_ranking.queries,
              "database": indexed.database, "depth": run.retrieved.shape[1], "dim": indexed.dim, "labels": len(relevance_judge.labels.names),
              "index_bytes": sum(shard.index.size for shard in shards.shards)}  # fmt: skip
    timings = measure_search_speed(searcher, run.vectors, threads=faiss.omp_get_max_threads())
    timings |= load_or_measure_encode_latency(
        root, query_embeddings, encoder, image_root, config.encode_latency_queries, acquire_gpu_slot()
    )
    timings["bytes_per_vector"] = bytes_per_vector([shard.index.size for shard in shards.shards], indexed.database)
    identity = [
        embeddings.digest,
        tuned.digest,
        index.model_dump(mode="json"),
        config.model_dump(mode="json"),
        leaks,
        metrics,
        pair_correlations,
    ]
    digest = json_digest(identity)
    with root.scratch.staging() as staging:
        write_per_query(staging / "per_query.parquet", run, relevance_judge, judged, ann_metrics)
        by_label = write_per_label(staging / "per_label.parquet", relevance_judge, judged)
        swept = sweep_search_params(searcher, run, ground_truth, tuned.params)
        write_search_sweep(staging / "search_sweep.parquet", swept, trained.factory, trained.rerank)
        drawn = build_report_data(root, embeddings, run, relevance_judge, judged, by_label, config.examples) | {
            "space": space,
            "sweep": swept,
        }
        (staging / "report_data.json").write_text(json.dumps(drawn, ensure_ascii=False), encoding="utf-8")
        if config.trec:
            write_run(staging / "run.trec", run, searcher.higher_is_better)
            write_qrels(staging / "qrels.trec", root, indexed, staging / "per_query.parquet", pairs, config.relevance_threshold)
        files = _commit_files(root, staging, root.index(name) / "evaluations" / digest[:16])
    return Evaluation(
        digest=digest, files=(*files.values(), ground_truth.file), shards=shards.digest, relevance_source=judged.source, metrics=metrics, intervals=bounds,
        scored_pairs=pair_correlations, timings=timings, counts=counts, per_query=files["per_query.parquet"], per_label=files["per_label.parquet"],
        search_sweep=files["search_sweep.parquet"], report_data=files["report_data.json"], ground_truth=ground_truth.file,
        trec=tuple(ref for name, ref in files.items() if name.endswith(".trec")),
    )  # fmt: skip


def _project_embedding_space(
    root: Root, indexed: EmbeddingSet, relevance_judge: RelevanceJudge, seed: int, seconds: float
) -> dict[str, Any]:
    """The study of the space, without the seconds that it took."""
    with track("drawing the space", 1) as advance:
        retrieved = project_embedding_space(root, indexed, relevance_judge.labels, seed=seed, seconds=seconds)
        advance(1)
    return {name: value for name, value in retrieved.items() if name != "tsne_seconds"}


def _commit_files(root: Root, staging: Path, folder: Path) -> dict[str, FileRef]:
    """Every file of `staging` under its name in `folder`."""
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        commit(staging / name, folder / name)
    return {name: root.make_ref(folder / name) for name in names}
