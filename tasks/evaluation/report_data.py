"""Data of the report's figures: example queries with results, labels, confusions, and the precision-recall curve."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.relevance import RelevanceJudge, RelevanceResult
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.metrics.per_label import find_largest_confusions
from indexmill.tasks.metrics.ranking import RECALL_LEVELS, interpolated_precision

RESULTS_PER_EXAMPLE = 6
ITEM_COLUMNS = ("item_id", "key", "label", "text", "path", "content_digest")


def choose_example_rows(average_precisions: np.ndarray | None, queries: int, count: int) -> dict[str, list[int]]:
    """Query rows to show: `examples`, the first by id (so by chance, as ids are hashes), `best` and `worst` by a figure of each query.

    figures: float64 (queries,), NaN for a query without one; None when there is nothing to rank by. Equals stand by row; a query is not
    both among the best and the worst.
    """
    rows = {"examples": list(range(min(count, queries))), "best": [], "worst": []}
    if average_precisions is not None and count:
        ranked = np.flatnonzero(np.isfinite(average_precisions))
        ranked = ranked[np.argsort(average_precisions[ranked], kind="stable")]
        several = min(count, len(ranked) // 2)
        rows |= {"worst": ranked[:several].tolist(), "best": ranked[::-1][:several].tolist()}
    return rows


def load_examples(
    root: Root, embeddings: EmbeddingSet, run: RetrievalRun, rows: dict[str, list[int]], average_precisions: np.ndarray | None
) -> dict[str, list[dict[str, Any]]]:
    """The same with what they show: `query`, `results` (each with its `score`), and the `figure` of the query or None."""
    every = sorted({row for some in rows.values() for row in some})
    wanted = {int(item) for item in (*run.ids[every], *run.retrieved[every, :RESULTS_PER_EXAMPLE].ravel()) if item >= 0}
    items = _read_items(root, embeddings, sorted(wanted))
    told = {row: _build_example(run, row, items, average_precisions) for row in every}
    return {name: [told[row] for row in some] for name, some in rows.items()}


def _build_example(run: RetrievalRun, row: int, items: dict[int, dict[str, Any]], average_precisions: np.ndarray | None) -> dict[str, Any]:
    ranking = zip(run.retrieved[row, :RESULTS_PER_EXAMPLE], run.scores[row, :RESULTS_PER_EXAMPLE], strict=True)
    figure = None if average_precisions is None or not np.isfinite(average_precisions[row]) else float(average_precisions[row])
    results = [{**items[int(item)], "score": float(score)} for item, score in ranking if item >= 0]
    return {"query": items[int(run.ids[row])], "results": results, "figure": figure}


def _read_items(root: Root, embeddings: EmbeddingSet, ids: list[int]) -> dict[int, dict[str, Any]]:
    if not ids:
        return {}
    table = parquet.scan_sql(root.file(embeddings.items))
    sql = f"SELECT {', '.join(ITEM_COLUMNS)} FROM {table} WHERE item_id IN ({', '.join(map(str, ids))})"
    return {row[0]: dict(zip(ITEM_COLUMNS, row, strict=True)) for row in parquet.fetch_rows(sql, temp_dir=root.tmp)}


MAX_LABELS_SHOWN = 40
CONFUSION_K = 10


def build_report_data(
    root: Root,
    embeddings: EmbeddingSet,
    run: RetrievalRun,
    judge: RelevanceJudge,
    judged: RelevanceResult,
    by_label: list[dict[str, Any]],
    examples: int,
) -> dict[str, Any]:
    """JSON-simple. examples, best, worst: each `query`, `results`, `figure` (average precision, None where not judged).

    by_label: the LABELS_SHOWN labels with the most queries. confusion: the largest, by name. precision_recall: the mean interpolated
    precision at eleven levels of recall; no level where nothing was judged.
    """
    average_precisions = None
    if judged.source:
        average_precisions = np.full(len(run.ids), np.nan)
        average_precisions[judged.judged] = judged.columns["map"]
    names = judge.labels.names
    pairs = [(judged.labels[judged.judged], judge.labels.lookup(judged.retrieved))] if judged.source == "label" else []
    confused = find_largest_confusions(pairs, CONFUSION_K)
    curve = interpolated_precision(judged.hits, judged.relevant).mean(axis=0).tolist() if judged.source else []
    return {
        **load_examples(root, embeddings, run, choose_example_rows(average_precisions, len(run.ids), examples), average_precisions),
        "by_label": sorted(by_label, key=lambda row: (-row["queries"], row["label"]))[:MAX_LABELS_SHOWN],
        "confusion": [asdict(one) | {"query": names[one.query], "retrieved": names[one.retrieved]} for one in confused],
        "precision_recall": {"recall": RECALL_LEVELS.tolist() if curve else [], "precision": curve},
    }
