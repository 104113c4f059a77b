"""Evaluate: the held-out queries against the database side, for relevance, agreement with exact search, and speed."""

from __future__ import annotations

import json
from typing import Any

import faiss
import numpy as np
from prefect import task

from configs.models import EvaluationConfig, IndexConfig
from storage import tables
from storage.digests import json_digest
from storage.embeddings import joined, vectors
from storage.index_records import IndexShards, TunedIndex
from storage.records import EmbeddingSet, Evaluation
from storage.root import Root
from tasks.indexes.opening import open_searcher
from tasks.indexes.searcher import Searcher
from tasks.measures.labels import UNLABELLED, Labels
from tasks.measures.neighbours import distance_recall_at, exact_search, overlap_at
from tasks.measures.projection import project
from tasks.measures.relevance import average_precision, precision_at, recall_at, reciprocal_rank
from tasks.measures.speed import search_speed
from tasks.policy import REMEMBERED, StageCache
from tasks.progress import track

QUERIES_AT_ONCE = 256
ANN_DEPTH = 10  # agreement with exact search is told at this depth besides every k


@task(name="evaluate", cache_policy=StageCache(stage_version=3, libraries=("faiss-cpu", "numpy")), **REMEMBERED)
def evaluate(
    root: Root, name: str, embeddings: EmbeddingSet, shards: IndexShards, tuned: TunedIndex, index: IndexConfig, config: EvaluationConfig,
    leaks: str,
) -> Evaluation:  # fmt: skip
    """Figures, and what the report shows: example queries with their results, precision by label, a projection.

    leaks: `exclude` asks only queries that are not nearly an item of the database. Without queries there are no figures.
    """
    held, asked = embeddings.of(index.holds), embeddings.of(config.asks or index.holds)
    searcher = open_searcher(shards.shards, root.file, index.metric, tuned.setting)
    sampled = vectors(root, asked, side="query", leaking=leaks == "keep", sample=(config.max_queries, index.seed))
    with sampled as blocks:
        ids, queries = joined(blocks, asked.dim)
    depth = min(config.depth, held.database)
    scores, found = _search(searcher, queries, depth)
    metrics, counts, by_label = relevance(Labels(root, embeddings, held), ids, found, config.k)
    metrics |= _agreement(root, held, searcher, queries, scores, found, config.k)
    timings = search_speed(searcher, queries)
    counts |= {"queries": len(ids), "database": held.database, "depth": depth, "dim": held.dim}
    study = {
        "by_label": by_label,
        "examples": _examples(root, embeddings, ids, found, scores, config.examples),
        "projection": project(root, held, seed=index.seed),
    }
    digest = json_digest([tuned.digest, index.model_dump(mode="json"), config.model_dump(mode="json"), metrics])
    folder = root.index(name) / "evaluations" / digest[:16]
    figures = {"schema_version": 1, "name": name, "metrics": metrics, "timings": timings, "counts": counts}
    figures |= {"k": list(config.k), "fingerprint": held.fingerprint, "factory": index.factory, "metric": index.metric}
    root.scratch.write_text(folder / "study.json", json.dumps(study, ensure_ascii=False))
    root.scratch.write_text(folder / "metrics.json", json.dumps(figures, indent=2) + "\n")
    metrics_json, study_json = root.ref(folder / "metrics.json"), root.ref(folder / "study.json")
    return Evaluation(
        digest=digest, files=(metrics_json, study_json), shards=shards.digest, metrics=metrics, timings=timings, counts=counts,
        metrics_json=metrics_json, study_json=study_json,
    )  # fmt: skip


def _search(searcher: Searcher, queries: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    scores, found = [np.empty((0, depth), np.float32)], [np.empty((0, depth), np.int64)]
    with track("searching", len(queries)) as advance:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            batch = queries[start : start + QUERIES_AT_ONCE]
            score, ids = searcher.search(batch, depth)
            scores.append(score)
            found.append(ids)
            advance(len(batch))
    return np.concatenate(scores), np.concatenate(found)


def relevance(
    labels: Labels, ids: np.ndarray, found: np.ndarray, ks: tuple[int, ...]
) -> tuple[dict[str, float], dict[str, int], list[dict[str, Any]]]:
    """Mean measures over the queries that have a relevant item, how many those are, and average precision label by label."""
    wanted = labels.of(ids)
    relevant = np.where(wanted == UNLABELLED, 0, labels.count("database")[wanted] if labels.names else 0)
    judged = relevant > 0
    counts = {"queries_judged": int(judged.sum()), "labels": len(labels.names)}
    if not judged.any():
        return {}, counts, []
    wanted, relevant, found = wanted[judged], relevant[judged], found[judged]
    hits = labels.of(found) == wanted[:, None]
    precision = average_precision(hits, relevant)
    metrics = {"map": float(precision.mean()), "mrr": float(reciprocal_rank(hits).mean())}
    for k in ks:
        metrics[f"precision_at_{k}"] = float(precision_at(hits, k).mean())
        metrics[f"recall_at_{k}"] = float(recall_at(hits, relevant, k).mean())
    at = max(ks)
    by_label = [
        {"label": labels.names[code], "queries": int(mine.sum()), "map": float(precision[mine].mean()),
         "precision": float(precision_at(hits[mine], at).mean()), "at": at}
        for code in np.unique(wanted)
        for mine in [wanted == code]
    ]  # fmt: skip
    return metrics, counts, by_label


def _agreement(
    root: Root,
    embeddings: EmbeddingSet,
    searcher: Searcher,
    queries: np.ndarray,
    scores: np.ndarray,
    found: np.ndarray,
    ks: tuple[int, ...],
) -> dict[str, float]:
    """Recall against exact search, by ids and by distances, at every k and at ANN_DEPTH."""
    if not len(queries):
        return {}
    cuts = sorted({k for k in (*ks, ANN_DEPTH) if k <= embeddings.database})
    with track("exact search", embeddings.database) as advance, vectors(root, embeddings, side="database") as blocks:

        def counted() -> Any:
            for block_ids, block in blocks:
                yield block_ids, block
                advance(len(block_ids))

        exact_scores, exact = exact_search(queries, counted(), max(cuts), searcher.metric)
    larger = searcher.metric == faiss.METRIC_INNER_PRODUCT
    return {f"ann_recall_at_{k}": float(overlap_at(found, exact, k).mean()) for k in cuts} | {
        f"ann_distance_recall_at_{k}": float(distance_recall_at(scores, found, exact_scores, k, larger=larger).mean()) for k in cuts
    }


def _examples(
    root: Root, embeddings: EmbeddingSet, ids: np.ndarray, found: np.ndarray, scores: np.ndarray, count: int
) -> list[dict[str, Any]]:
    """The first `count` queries (by id, so drawn at random by their hash) with their first results, as rows of the items table."""
    shown = found[:count, :6]
    wanted = sorted({int(item) for item in (*ids[:count], *shown.ravel()) if item >= 0})
    if not wanted:
        return []
    columns = ("item_id", "key", "label", "text", "path", "content_digest")
    sql = f"SELECT {', '.join(columns)} FROM {tables.parquet(root.file(embeddings.items))} WHERE item_id IN ({', '.join(map(str, wanted))})"
    items = {row[0]: dict(zip(columns, row, strict=True)) for row in tables.rows(sql, spill=root.tmp)}
    return [
        {
            "query": items[int(query)],
            "results": [{**items[int(item)], "score": float(score)} for item, score in zip(row, line, strict=True) if item >= 0],
        }
        for query, row, line in zip(ids[:count], shown, scores[:count, : shown.shape[1]], strict=True)
    ]
