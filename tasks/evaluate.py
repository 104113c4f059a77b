"""Evaluate: the queries against the database side, for relevance, agreement with exact search, embedding space, and speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
from prefect import task

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.models import EvaluationConfig, IndexConfig
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.canary import check_canaries
from indexmill.tasks.evaluation.encode_latency import load_or_measure_encode_latency
from indexmill.tasks.evaluation.extra_metrics import (
    compute_full_ranking_map,
    correlate_scored_pairs,
    evaluate_all_captions,
    evaluate_captions,
)
from indexmill.tasks.evaluation.judgment import Judgment, count_queries, judge_held_out, judge_own
from indexmill.tasks.evaluation.own_measures import compute_own_measures
from indexmill.tasks.evaluation.own_queries import load_names, write_named_qrels, write_named_run
from indexmill.tasks.evaluation.projection import project_embedding_space
from indexmill.tasks.evaluation.relevance import RelevanceJudge, aggregate_metrics
from indexmill.tasks.evaluation.report_data import build_report_data, load_live_report_data
from indexmill.tasks.evaluation.search_sweep import sweep_search_params
from indexmill.tasks.evaluation.tables import (
    build_per_query_table,
    join_per_query_tables,
    write_per_label,
    write_per_query,
    write_search_sweep,
)
from indexmill.tasks.evaluation.trec import write_qrels, write_run
from indexmill.tasks.gpu_slot import acquire_gpu_slot
from indexmill.tasks.indexing.chunk_search import load_chunk_map
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.metrics.latency import bytes_per_vector, measure_search_speed
from indexmill.tasks.progress import track
from indexmill.tasks.runner import LOCAL_RUNNER, Runner
from indexmill.tasks.stage_policy import get_task_options


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
    measure_versions: dict[str, dict[str, str]],
    runner: Runner = LOCAL_RUNNER,
) -> Evaluation:
    """Measure the index with the held-out queries, or with one's own; write tables per query and per label, and the report's data.

    `leaks: exclude` leaves out queries that are nearly a copy of an item in the database. Without queries, few metrics
    can be measured. Of several sets of one's own queries, the first is the main one, which speed and figures are measured with.
    `measure_versions` holds the versions of the measures in the config (`tasks.evaluation.own_measures`), for the cache key.

    Raises:
        InputError: The index does not find its own items (`tasks.evaluation.canary`).
    """
    query_sets, items = embeddings.query_sets, embeddings.without_queries()
    indexed = items.for_modality(index.modality)
    queries = query_sets[0].embeddings if query_sets else items.for_modality(config.query_modality or index.modality)
    include_leaks = leaks == "keep"
    folder = root.index(name) / "evaluations"
    searcher = open_searcher(shards.shards, root.file, index.metric, tuned.params, load_chunk_map(root, indexed))
    canaries = check_canaries(root, indexed, searcher, seed=index.seed, factory=trained.factory, metric=index.metric)
    judge = RelevanceJudge(root, items, indexed)
    if query_sets:
        judgments = [
            judge_own(root, folder, judge, searcher, query_set, config, runner, include_leaks=include_leaks, seed=index.seed)
            for query_set in query_sets
        ]
    else:
        with open_vectors(root, queries, side="query", leaking=include_leaks, sample=(config.max_queries, index.seed)) as blocks:
            query_ids, query_vectors = concatenate_blocks(blocks, queries.dim)
        judgments = [
            judge_held_out(
                root,
                folder,
                judge,
                searcher,
                queries=queries,
                query_ids=query_ids,
                query_vectors=query_vectors,
                config=config,
                pairs=pairs,
                runner=runner,
            )
        ]
    judgment = judgments[0]
    metrics, intervals = _aggregate_sets(judgments)
    full_ranking = compute_full_ranking_map(root, judge, judgment.run, judgment.relevance, index)
    projection = _project_embedding_space(root, name, indexed, judge, index.seed, config.projection_seconds)
    metrics |= full_ranking.metrics
    if query_sets and query_sets[0].is_pairs:
        metrics |= evaluate_all_captions(root, items, max_images=config.max_queries, seed=index.seed)
    else:
        metrics |= evaluate_captions(root, items, include_leaks=include_leaks, max_items=config.max_queries, seed=index.seed)
    metrics |= {key: projection[key] for key in ("knn_purity_at_10", "silhouette") if projection.get(key) is not None}
    own = compute_own_measures(root, config, judgments, queries, known=metrics)
    judgments, metrics, intervals = own.judgments, metrics | own.metrics, intervals | own.intervals
    scored_pairs = correlate_scored_pairs(root, items, pairs) if pairs else {}
    timings = measure_search_speed(searcher, judgment.run.query_vectors, threads=faiss.omp_get_max_threads())
    timings |= load_or_measure_encode_latency(
        root,
        queries,
        encoder,
        query_sets[0].image_root if query_sets else image_root,
        config.encode_latency_queries,
        gpu_slot=acquire_gpu_slot(),
    )
    timings["bytes_per_vector"] = bytes_per_vector([shard.index.size for shard in shards.shards], indexed.indexed_vectors.database)
    configs = [index.model_dump(mode="json"), config.model_dump(mode="json")] + ([measure_versions] if measure_versions else [])
    digest = json_digest([embeddings.digest, tuned.digest, *configs, leaks, metrics, scored_pairs])
    sweep = sweep_search_params(searcher, judgment.run, judgment.ground_truth, tuned.params)
    report_data = {"space": projection, "sweep": sweep}
    files = _write_files(
        root, folder / digest[:16], judgments, embeddings=items, trained=trained, report_data=report_data, config=config, pairs=pairs
    )
    ground_truths = [judgment.ground_truth.file for judgment in judgments]
    return Evaluation(
        digest=digest,
        files=(*files.values(), *ground_truths),
        shards=shards.digest,
        relevance_source=judgment.relevance.source,
        metrics=metrics,
        intervals=intervals,
        scored_pairs=scored_pairs,
        timings=timings,
        counts=_count(judgments, shards)
        | {"queries_full_depth": full_ranking.queries, "canaries": canaries.sampled, "canaries_found": canaries.found},
        per_query=files["per_query.parquet"],
        per_label=files["per_label.parquet"],
        search_sweep=files["search_sweep.parquet"],
        report_data=files["report_data.json"],
        ground_truth=judgment.ground_truth.file,
        trec=tuple(ref for name, ref in files.items() if name.endswith(".trec")),
        set_ground_truths=tuple(ground_truths[1:]),
    )


def _aggregate_sets(judgments: list[Judgment]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Average the metrics of every set; those of a further set carry its name."""
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for judgment in judgments:
        set_metrics, set_intervals = aggregate_metrics(judgment.relevance, judgment.ann_metrics)
        metrics |= {judgment.prefix + name: value for name, value in set_metrics.items()}
        intervals |= {judgment.prefix + name: value for name, value in set_intervals.items()}
    return metrics, intervals


def _write_files(
    root: Root,
    folder: Path,
    judgments: list[Judgment],
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
        report_data = _write_query_tables(root, staging, embeddings, judgments, config.examples) | report_data
        (staging / "report_data.json").write_text(json.dumps(report_data, ensure_ascii=False), encoding="utf-8")
        judgment = judgments[0]
        if config.trec and judgment.own:
            for of_set in judgments:
                _write_named_trec(root, staging, of_set)
        elif config.trec:
            indexed = judgment.judge.indexed
            write_run(staging / "run.trec", judgment.run, judgment.searcher.higher_is_better)
            write_qrels(staging / "qrels.trec", root, indexed, staging / "per_query.parquet", pairs, config.relevance_threshold)
        return _commit_files(root, staging, folder)


def _write_named_trec(root: Root, staging: Path, judgment: Judgment) -> None:
    """Write a set's run and judgements by the ids of its queries and the keys of the items; a further set's files carry its name."""
    if judgment.own is None:
        return
    suffix = f"-{judgment.own.name}" if judgment.own.name else ""
    query_names = load_names(root, judgment.own.embeddings, judgment.run.query_ids)
    item_names = load_names(root, judgment.judge.indexed, judgment.run.retrieved)
    higher_is_better = judgment.searcher.higher_is_better
    write_named_run(staging / f"run{suffix}.trec", judgment.run, query_names, item_names, higher_is_better=higher_is_better)
    write_named_qrels(staging / f"qrels{suffix}.trec", root, judgment.own.judgements, query_names)


def _write_query_tables(root: Root, staging: Path, embeddings: EmbeddingSet, judgments: list[Judgment], examples: int) -> dict[str, Any]:
    """Write per_query.parquet and per_label.parquet; returns what the report shows of the queries, those of the main set."""
    judgment = judgments[0]
    judge, run, relevance = judgment.judge, judgment.run, judgment.relevance
    if judgment.own:
        tables = [
            build_per_query_table(
                of_set.run, judge, of_set.relevance, of_set.ann_metrics, prefix=of_set.prefix, query_set=of_set.own.name
            ).append_column("query", [[names[query_id] for query_id in of_set.run.query_ids.tolist()]])
            for of_set in judgments
            if of_set.own and (names := load_names(root, of_set.own.embeddings, of_set.run.query_ids)) is not None
        ]
        join_per_query_tables(staging / "per_query.parquet", tables)
    else:
        write_per_query(staging / "per_query.parquet", run, judge, relevance, judgment.ann_metrics)
    label_rows = write_per_label(staging / "per_label.parquet", judge, relevance)
    return build_report_data(
        root,
        embeddings=embeddings,
        run=run,
        judge=judge,
        relevance=relevance,
        label_rows=label_rows,
        examples=examples,
        own=judgment.own,
    )


def _count(judgments: list[Judgment], shards: IndexShards) -> dict[str, int]:
    judge = judgments[0].judge
    return count_queries(judgments) | {
        "database": judge.indexed.database,
        "depth": judgments[0].run.retrieved.shape[1],
        "dim": judge.indexed.dim,
        "labels": len(judge.labels.names),
        "index_bytes": sum(shard.index.size for shard in shards.shards),
    }


def _project_embedding_space(
    root: Root, name: str, indexed: EmbeddingSet, judge: RelevanceJudge, seed: int, seconds: float
) -> dict[str, Any]:
    """Project the embedding space. Leaves out how long it took, which would differ from run to run."""
    with track("projecting the embedding space", 1) as advance:
        earlier = (load_live_report_data(root, name) or {}).get("space")
        projection = project_embedding_space(root, indexed, judge.labels, seed=seed, seconds=seconds, earlier=earlier)
        advance(1)
    return {name: value for name, value in projection.items() if name != "tsne_seconds"}


def _commit_files(root: Root, staging: Path, folder: Path) -> dict[str, FileRef]:
    """Move every file of `staging` into `folder`."""
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        root.commit(staging / name, folder / name)
    return {name: root.make_ref(folder / name) for name in names}
