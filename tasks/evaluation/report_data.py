"""Data of the report's plots: example queries with results, labels, confusions, and the precision-recall curve."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.errors import DamagedFile, InputError
from indexmill.storage.records import EmbeddingSet, EncodedQueries
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.evaluation.relevance import RelevanceJudge, RelevanceResult
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.metrics.per_label import find_largest_confusions
from indexmill.tasks.metrics.ranking import RECALL_LEVELS, interpolated_precision

RESULTS_PER_EXAMPLE = 6
ITEM_COLUMNS = ("item_id", "key", "label", "text", "path", "content_digest")
MAX_LABELS_SHOWN = 40
CONFUSION_K = 10


def build_report_data(
    root: Root,
    *,
    embeddings: EmbeddingSet,
    run: RetrievalRun,
    judge: RelevanceJudge,
    relevance: RelevanceResult,
    label_rows: list[dict[str, Any]],
    examples: int,
    own: EncodedQueries | None = None,
) -> dict[str, Any]:
    """Collect what the report shows of the queries, as JSON-ready data.

    Args:
        root: The storage root.
        embeddings: All items.
        run: The rankings.
        judge: Provides the labels.
        relevance: The judge's result for the run.
        label_rows: The rows of per_label.parquet.
        examples: Queries to show in each group.
        own: The set of the queries, if they are one's own.

    Returns:
        `examples`, `best`, `worst`: queries as `load_examples` returns them. `by_label`: the MAX_LABELS_SHOWN labels with the most queries.
        `confusion`: the largest confusions of labels. `precision_recall`: mean interpolated precision at eleven levels of recall, empty if
        no query is judged.
    """
    average_precisions = None
    if relevance.source:
        average_precisions = np.full(len(run.query_ids), np.nan)
        average_precisions[relevance.judged] = relevance.metrics["map"]
    names = judge.labels.names
    is_by_label = relevance.source == "label"
    label_pairs = [(relevance.labels[relevance.judged], judge.labels.lookup(relevance.retrieved))] if is_by_label else []
    confusions = find_largest_confusions(label_pairs, CONFUSION_K)
    precisions = interpolated_precision(relevance.hits, relevance.relevant).mean(axis=0).tolist() if relevance.source else []
    example_rows = choose_example_rows(average_precisions, len(run.query_ids), examples)
    shown = load_examples(root, embeddings, run, example_rows, average_precisions, own)
    if own:
        shown = _mark_judged(shown, relevance)
    return {
        **shown,
        "by_label": sorted(label_rows, key=lambda row: (-row["queries"], row["label"]))[:MAX_LABELS_SHOWN],
        "confusion": [
            asdict(confusion) | {"query": names[confusion.query], "retrieved": names[confusion.retrieved]} for confusion in confusions
        ],
        "precision_recall": {"recall": RECALL_LEVELS.tolist() if precisions else [], "precision": precisions},
    }


def load_live_report_data(root: Root, name: str) -> dict[str, Any] | None:
    """Load the report's data of the live snapshot; None if nothing is live or they are damaged."""
    try:
        manifest = Snapshots(root, name).read_live_manifest()
        paths = [path for path in manifest.pool_files if path.endswith("/report_data.json")] if manifest else []
        data = json.loads(root.fetch(root.path / paths[0]).read_text(encoding="utf-8")) if paths else None
    except (DamagedFile, InputError, OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def choose_example_rows(average_precisions: np.ndarray | None, queries: int, count: int) -> dict[str, list[int]]:
    """Choose the query rows to show: `examples`, the first by id (a random choice, since ids are hashes), and the `best` and `worst`.

    Args:
        average_precisions: float64 (queries,), NaN for a query that is not judged; None if none is.
        queries: Number of queries.
        count: Rows per group. Ties are broken by row, and no query is both among the best and the worst.
    """
    rows = {"examples": list(range(min(count, queries))), "best": [], "worst": []}
    if average_precisions is not None and count:
        ranked = np.flatnonzero(np.isfinite(average_precisions))
        ranked = ranked[np.argsort(average_precisions[ranked], kind="stable")]
        group_size = min(count, len(ranked) // 2)
        rows |= {"worst": ranked[:group_size].tolist(), "best": ranked[::-1][:group_size].tolist()}
    return rows


def load_examples(
    root: Root,
    embeddings: EmbeddingSet,
    run: RetrievalRun,
    rows: dict[str, list[int]],
    average_precisions: np.ndarray | None,
    own: EncodedQueries | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Load the chosen queries: `query`, `results` (items, each with its `score`), and `average_precision` or None.

    A query of one's own also has `row`, its row in the run, and `image_root`.
    """
    distinct_rows = sorted({row for group in rows.values() for row in group})
    result_ids = run.retrieved[distinct_rows, :RESULTS_PER_EXAMPLE].ravel()
    shown_ids = result_ids if own else (*run.query_ids[distinct_rows], *result_ids)
    items = _read_items(root, embeddings, sorted({int(item_id) for item_id in shown_ids if item_id >= 0}))
    if own:
        queries = _read_items(root, own.embeddings, sorted(run.query_ids[distinct_rows].tolist()))
        row_of = dict(zip(run.query_ids[distinct_rows].tolist(), distinct_rows, strict=True))
        items |= {item_id: {**item, "row": row_of[item_id], "image_root": own.image_root} for item_id, item in queries.items()}
    examples = {row: _build_example(run, row, items, average_precisions) for row in distinct_rows}
    return {name: [examples[row] for row in group] for name, group in rows.items()}


def _build_example(run: RetrievalRun, row: int, items: dict[int, dict[str, Any]], average_precisions: np.ndarray | None) -> dict[str, Any]:
    ranking = zip(run.retrieved[row, :RESULTS_PER_EXAMPLE], run.scores[row, :RESULTS_PER_EXAMPLE], strict=True)
    average_precision = None if average_precisions is None or not np.isfinite(average_precisions[row]) else float(average_precisions[row])
    return {
        "query": items[int(run.query_ids[row])],
        "results": [{**items[int(item_id)], "score": float(score)} for item_id, score in ranking if item_id >= 0],
        "average_precision": average_precision,
    }


def _mark_judged(groups: dict[str, list[dict[str, Any]]], relevance: RelevanceResult) -> dict[str, list[dict[str, Any]]]:
    """Add `grade` to every result: its grade for the query, 0 for not relevant, None if nobody judged it."""
    qrels = relevance.qrels
    for example in {id(example): example for group in groups.values() for example in group}.values():
        row = example["query"].pop("row")
        ids = np.array([result["item_id"] for result in example["results"]], np.int64)
        for result, (grade, is_judged) in zip(example["results"], qrels.look_up_row(row, ids) if qrels else (), strict=True):
            result["grade"] = int(grade) if is_judged else None
    return groups


def _read_items(root: Root, embeddings: EmbeddingSet, item_ids: list[int]) -> dict[int, dict[str, Any]]:
    if not item_ids:
        return {}
    table = parquet.scan_sql(root.file(embeddings.items))
    sql = f"SELECT {', '.join(ITEM_COLUMNS)} FROM {table} WHERE item_id IN ({', '.join(map(str, item_ids))})"
    return {row[0]: dict(zip(ITEM_COLUMNS, row, strict=True)) for row in parquet.fetch_rows(sql, temp_dir=root.tmp)}
