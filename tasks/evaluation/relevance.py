"""Relevance of retrieved items, by label, by scored pairs or by judgements, and the mean metrics with their confidence intervals.

The query itself and its duplicates never count as relevant, unless judgements say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.labels import DuplicateGroups, ItemLabels
from indexmill.tasks.evaluation.retrieval import RetrievalRun, summarize_ann_metrics
from indexmill.tasks.metrics.bootstrap import bootstrap_intervals
from indexmill.tasks.metrics.exclusion import count_own_relevant, drop_excluded, mask_own_results
from indexmill.tasks.metrics.per_label import UNLABELED, macro_average
from indexmill.tasks.metrics.qrels import Qrels
from indexmill.tasks.metrics.ranking import compute_query_metrics, judged_at, reciprocal_rank_at

ConfidenceIntervals = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class RelevanceResult:
    """Relevance of a run. By label and by pairs, only queries with at least one relevant item are judged.

    Attributes:
        source: What decides relevance; None if no query is judged.
        judged: Mask of the judged queries, bool (queries,).
        labels: Label codes of all queries, int32 (queries,).
        retrieved: Rankings of the judged queries without the query itself and its duplicates, int64 (judged, depth).
        hits: Which of these are relevant, bool (judged, depth).
        relevant: Relevant items in the database, int64 (judged,).
        metrics: One float64 (judged,) array per metric.
        qrels: The judgements of all queries; None if there are none.
    """

    source: Literal["label", "pairs", "judgements"] | None
    judged: np.ndarray
    labels: np.ndarray
    retrieved: np.ndarray
    hits: np.ndarray
    relevant: np.ndarray
    metrics: dict[str, np.ndarray]
    qrels: Qrels | None = None


def judge_by_judgements(run: RetrievalRun, ks: tuple[int, ...], qrels: Qrels) -> RelevanceResult:
    """Count items as relevant whose grade is 1 or more; the grade is the gain in nDCG.

    As in trec_eval, a query is judged if any item is judged for it; one without a relevant item counts 0 in every mean. A query of
    one's own is no item, so nothing is excluded from its results.
    """
    judged = qrels.judged > 0
    gains, relevant = qrels.look_up_gains(run.retrieved)[judged], qrels.relevant[judged]
    hits, is_judged = gains > 0, qrels.look_up_judged(run.retrieved)[judged]
    metrics: dict[str, np.ndarray] = {}
    if judged.any():
        metrics = compute_query_metrics(hits, np.maximum(relevant, 1), ks, gains, qrels.ideal_gains(max(ks))[judged])
        retrieved_counts = (run.retrieved[judged] >= 0).sum(axis=1)
        for k in ks:
            metrics[f"mrr_at_{k}"] = reciprocal_rank_at(hits, k)
            metrics[f"judged_at_{k}"] = judged_at(is_judged, retrieved_counts, k)
    return RelevanceResult(
        source="judgements" if judged.any() else None,
        judged=judged,
        labels=np.full(len(judged), UNLABELED, np.int32),
        retrieved=run.retrieved[judged],
        hits=hits,
        relevant=relevant,
        metrics=metrics,
        qrels=qrels,
    )


class RelevanceJudge:
    """Decide which retrieved items are relevant. Holds labels and duplicate groups of all items: 28 bytes per item."""

    def __init__(self, root: Root, embeddings: EmbeddingSet, indexed: EmbeddingSet) -> None:
        """Load labels and groups.

        Args:
            root: The storage root.
            embeddings: All items.
            indexed: The items that the index holds.
        """
        self.root, self.indexed = root, indexed
        self.labels = ItemLabels(root, embeddings, indexed)
        self.groups = DuplicateGroups(root.file(embeddings.items), temp_dir=root.tmp)

    def has_relevance_source(self, pairs: FileRef | None, relevance_threshold: float | None) -> bool:
        """Tell whether labels or pairs can decide relevance; otherwise no metric needs deep rankings."""
        return bool(self.labels.names) or (pairs is not None and relevance_threshold is not None)

    def judge(self, run: RetrievalRun, ks: tuple[int, ...], pairs: FileRef | None, relevance_threshold: float | None) -> RelevanceResult:
        """Judge by scored pairs if there are pairs and a threshold, otherwise by label."""
        if pairs is None or relevance_threshold is None:
            return self.judge_by_label(run, ks)
        return self.judge_by_pairs(run, ks, pairs, relevance_threshold)

    def judge_by_label(self, run: RetrievalRun, ks: tuple[int, ...]) -> RelevanceResult:
        """Count items with the query's label as relevant. Queries without a label, or with a label the database lacks, are not judged."""
        labels = self.labels.lookup(run.query_ids)
        groups, retrieved, is_own = self._drop_own(run)
        counts = self.labels.count_per_label("database") if self.labels.names else np.zeros(1, np.int64)
        relevant = np.where(labels == UNLABELED, 0, counts[labels])
        if is_own.any() or (relevant > 0).any():
            relevant = relevant - count_own_relevant(run.query_ids, groups, labels, self._iterate_database())
        judged = relevant > 0
        hits = (self.labels.lookup(retrieved[judged]) == labels[judged, None]) & (retrieved[judged] >= 0)
        return RelevanceResult(
            source="label" if judged.any() else None,
            judged=judged,
            labels=labels,
            retrieved=retrieved[judged],
            hits=hits,
            relevant=relevant[judged],
            metrics=compute_query_metrics(hits, relevant[judged], ks) if judged.any() else {},
        )

    def judge_by_pairs(self, run: RetrievalRun, ks: tuple[int, ...], pairs: FileRef, relevance_threshold: float) -> RelevanceResult:
        """Count items as relevant that a pair with at least `relevance_threshold` joins to the query; the score is the gain in nDCG."""
        labels = self.labels.lookup(run.query_ids)
        _, retrieved, _ = self._drop_own(run)
        qrels = self._load_qrels(run.query_ids, pairs, relevance_threshold)
        relevant = qrels.relevant
        judged = relevant > 0
        gains = qrels.look_up_gains(retrieved)[judged]
        ideal_gains = qrels.ideal_gains(max(ks))[judged]
        return RelevanceResult(
            source="pairs" if judged.any() else None,
            judged=judged,
            labels=labels,
            retrieved=retrieved[judged],
            hits=gains > 0,
            relevant=relevant[judged],
            metrics=compute_query_metrics(gains > 0, relevant[judged], ks, gains, ideal_gains) if judged.any() else {},
        )

    def find_own_pairs(self, query_ids: np.ndarray, database_ids: np.ndarray) -> np.ndarray:
        """Find the queries themselves and their duplicates in the database.

        Args:
            query_ids: int64 (queries,).
            database_ids: int64 (n,), ascending.

        Returns:
            (query row, database row) of each, int64 (pairs, 2), in ascending order.
        """
        positions, groups = np.searchsorted(database_ids, query_ids), self.groups.lookup(database_ids)
        if len(database_ids):
            is_itself = database_ids[np.minimum(positions, len(database_ids) - 1)] == query_ids
        else:
            is_itself = np.zeros(len(query_ids), bool)
        pairs = [np.stack([np.flatnonzero(is_itself), positions[is_itself]], axis=1)]
        order = np.argsort(groups, kind="stable")
        for row, group in enumerate(self.groups.lookup(query_ids)):
            if group >= 0:
                first, last = np.searchsorted(groups[order], [group, group + 1])
                duplicates = order[first:last]
                pairs.append(np.stack([np.full(len(duplicates), row), duplicates], axis=1))
        return np.unique(np.concatenate(pairs), axis=0)

    def _drop_own(self, run: RetrievalRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the queries' groups, the rankings without the queries' own items, and the mask of what was dropped."""
        groups = self.groups.lookup(run.query_ids)
        is_own = mask_own_results(run.query_ids, groups, run.retrieved, self.groups.lookup(run.retrieved))
        return groups, drop_excluded(run.retrieved, is_own) if is_own.any() else run.retrieved, is_own

    def _iterate_database(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield ids, groups and labels of the database in batches."""
        sql = f"SELECT item_id FROM {parquet.scan_sql(self.root.file(self.indexed.items))} WHERE side = 'database'"
        with parquet.query(sql, temp_dir=self.root.tmp) as batches:
            for batch in batches:
                ids = batch.column("item_id").to_numpy()
                yield ids, self.groups.lookup(ids), self.labels.lookup(ids)

    def _load_qrels(self, query_ids: np.ndarray, pairs: FileRef, relevance_threshold: float) -> Qrels:
        """Load the pairs that join one of the queries to an item of the database, without the queries' own duplicates."""
        rows, items, gains = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
        order = np.argsort(query_ids)
        sql = self._make_pairs_sql(pairs)
        with parquet.query(sql, {"threshold": relevance_threshold}, temp_dir=self.root.tmp) as batches:
            for batch in batches:
                pair_queries = batch.column("query").to_numpy()
                positions = np.minimum(np.searchsorted(query_ids[order], pair_queries), len(query_ids) - 1)
                is_query = query_ids[order][positions] == pair_queries
                rows.append(order[positions[is_query]])
                items.append(batch.column("item_id").to_numpy()[is_query])
                gains.append(batch.column("score").to_numpy()[is_query])
        row, item = np.concatenate(rows), np.concatenate(items)
        groups, item_groups = self.groups.lookup(query_ids[row]), self.groups.lookup(item[:, None])
        is_own = mask_own_results(query_ids[row], groups, item[:, None], item_groups)[:, 0]
        return Qrels(len(query_ids), row[~is_own], item[~is_own], np.concatenate(gains)[~is_own])

    def _make_pairs_sql(self, pairs: FileRef) -> str:
        """Select pairs in both directions (query, item_id, score) whose item is in the database."""
        table, items = (parquet.scan_sql(self.root.file(ref)) for ref in (pairs, self.indexed.items))
        directions = " UNION ALL ".join(
            f"SELECT {query} AS query, {item} AS item_id, score FROM {table} WHERE score >= $threshold"
            for query, item in (("item_a", "item_b"), ("item_b", "item_a"))
        )
        return f"SELECT * FROM ({directions}) SEMI JOIN (SELECT item_id FROM {items} WHERE side = 'database') USING (item_id)"


def aggregate_metrics(relevance: RelevanceResult, ann_metrics: dict[str, np.ndarray]) -> tuple[dict[str, float], ConfidenceIntervals]:
    """Average every metric over the queries.

    Relevance metrics are averaged over the judged queries, ANN metrics over all. `map_by_label` is the mean over labels of their mAP.

    Returns:
        The means, and the 95 % bootstrap interval of each metric that has a value for every query.
    """
    metrics = summarize_ann_metrics(ann_metrics)
    intervals: ConfidenceIntervals = {}
    complete_ann_metrics = {name: column for name, column in ann_metrics.items() if np.isfinite(column).all()}
    for columns in (relevance.metrics, complete_ann_metrics):
        means, column_intervals = bootstrap_means(columns)
        metrics |= means
        intervals |= column_intervals
    if relevance.source == "label":
        labels, average_precisions = relevance.labels[relevance.judged], relevance.metrics["map"]
        metrics["map_by_label"] = macro_average(np.array([average_precisions[labels == code].mean() for code in np.unique(labels)]))
    return metrics, intervals


def bootstrap_means(columns: dict[str, np.ndarray]) -> tuple[dict[str, float], ConfidenceIntervals]:
    """Return the mean of each float64 (queries,) array, and its 95 % bootstrap interval."""
    if not columns or not len(next(iter(columns.values()))):
        return {}, {}
    means, lows, highs = (values.tolist() for values in bootstrap_intervals(np.stack(list(columns.values()), axis=1)))
    return dict(zip(columns, means, strict=True)), dict(zip(columns, zip(lows, highs, strict=True), strict=True))
