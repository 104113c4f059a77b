"""Evaluate: the held-out queries against the database side, for relevance, agreement with exact search, the space, and speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefect import task

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.models import EvaluationConfig, IndexConfig
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.embeddings import joined, vectors
from indexmill.storage.index_records import IndexShards, TrainedIndex, TunedIndex
from indexmill.storage.records import EmbeddingSet, Evaluation, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.agreement import agreement, cuts
from indexmill.tasks.evaluation.answers import answers
from indexmill.tasks.evaluation.both_ways import caption_figures
from indexmill.tasks.evaluation.encoding import encode_times
from indexmill.tasks.evaluation.figures import means
from indexmill.tasks.evaluation.full_depth import full_depth
from indexmill.tasks.evaluation.graded import graded
from indexmill.tasks.evaluation.judging import Judge
from indexmill.tasks.evaluation.sketches import sketches
from indexmill.tasks.evaluation.sweep import sweep
from indexmill.tasks.evaluation.trec import write_qrels, write_run
from indexmill.tasks.evaluation.truth import ground_truth
from indexmill.tasks.evaluation.writing import write_per_label, write_per_query, write_settings
from indexmill.tasks.indexes.opening import open_searcher
from indexmill.tasks.measures.projection import study_space
from indexmill.tasks.measures.speed import bytes_a_vector, search_speed
from indexmill.tasks.policy import options
from indexmill.tasks.progress import track
from indexmill.tasks.turns import device_turn


@task(**options("evaluate"))
def evaluate(
    root: Root, name: str, embeddings: EmbeddingSet, trained: TrainedIndex, shards: IndexShards, tuned: TunedIndex,
    index: IndexConfig, encoder: EncoderConfig, config: EvaluationConfig, leaks: str, base: str | None, pairs: FileRef | None,
) -> Evaluation:  # fmt: skip
    """Figures, a row a query and a label, and what the report draws. Without queries there are hardly any.

    leaks: `exclude` asks only queries that are not nearly an item of the database. base: the folder of images. pairs: scored pairs.
    """
    held, asked = embeddings.of(index.holds), embeddings.of(config.asks or index.holds)
    searcher = open_searcher(shards.shards, root.file, index.metric, tuned.setting)
    ks, judge = cuts(config.k, held.database), Judge(root, embeddings, held)
    most = max(ks, default=1)
    depth = min(config.depth, held.database) if config.trec or judge.can_judge(pairs, config.relevant_from) else most
    with vectors(root, asked, side="query", leaking=leaks == "keep", sample=(config.max_queries, index.seed)) as blocks:
        given = answers(searcher, *joined(blocks, asked.dim), most, depth)
    truth = ground_truth(root, root.index(name) / "evaluations", held, asked, given, most, searcher.metric)
    agreed = agreement(given, truth, ks, searcher.metric)
    judged = judge.judged(given, config.k, pairs, config.relevant_from)
    metrics, bounds = means(judged, agreed)
    exact = full_depth(root, judge, given, judged, index)
    space = _space(root, held, judge, index.seed, config.projection_seconds)
    metrics |= exact.metrics | caption_figures(root, embeddings, leaking=leaks == "keep", most=config.max_queries, seed=index.seed)
    metrics |= {name: space[name] for name in ("knn_purity_at_10", "silhouette") if space.get(name) is not None}
    told = graded(root, embeddings, pairs) if pairs else {}
    counts = {"queries": len(given.ids), "queries_judged": int(judged.judged.sum()), "queries_full_depth": exact.queries,
              "database": held.database, "depth": given.found.shape[1], "dim": held.dim, "labels": len(judge.labels.names),
              "index_bytes": sum(shard.index.size for shard in shards.shards)}  # fmt: skip
    timings = search_speed(searcher, given.vectors)
    timings |= encode_times(root, asked, encoder, base, config.encode_queries, device_turn())
    timings["bytes_a_vector"] = bytes_a_vector([shard.index.size for shard in shards.shards], held.database)
    identity = [embeddings.digest, tuned.digest, index.model_dump(mode="json"), config.model_dump(mode="json"), leaks, metrics, told]
    digest = json_digest(identity)
    with root.scratch.staging() as staging:
        write_per_query(staging / "per_query.parquet", given, judge, judged, agreed)
        by_label = write_per_label(staging / "per_label.parquet", judge, judged)
        swept = sweep(searcher, given, truth, tuned.setting)
        write_settings(staging / "study.parquet", swept, trained.factory, trained.rerank)
        drawn = sketches(root, embeddings, given, judge, judged, by_label, config.examples) | {"space": space, "sweep": swept}
        (staging / "sketches.json").write_text(json.dumps(drawn, ensure_ascii=False), encoding="utf-8")
        if config.trec:
            write_run(staging / "run.trec", given, searcher.larger)
            write_qrels(staging / "qrels.trec", root, held, staging / "per_query.parquet", pairs, config.relevant_from)
        files = _committed(root, staging, root.index(name) / "evaluations" / digest[:16])
    return Evaluation(
        digest=digest, files=(*files.values(), truth.file), shards=shards.digest, judged_by=judged.by, metrics=metrics, intervals=bounds,
        graded=told, timings=timings, counts=counts, per_query=files["per_query.parquet"], per_label=files["per_label.parquet"],
        study=files["study.parquet"], sketches=files["sketches.json"], truth=truth.file,
        trec=tuple(ref for name, ref in files.items() if name.endswith(".trec")),
    )  # fmt: skip


def _space(root: Root, held: EmbeddingSet, judge: Judge, seed: int, seconds: float) -> dict[str, Any]:
    """The study of the space, without the seconds that it took."""
    with track("drawing the space", 1) as advance:
        found = study_space(root, held, judge.labels, seed=seed, seconds=seconds)
        advance(1)
    return {name: value for name, value in found.items() if name != "tsne_seconds"}


def _committed(root: Root, staging: Path, folder: Path) -> dict[str, FileRef]:
    """Every file of `staging` under its name in `folder`."""
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        commit(staging / name, folder / name)
    return {name: root.ref(folder / name) for name in names}
