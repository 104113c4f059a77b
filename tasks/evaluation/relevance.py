"""Relevance of retrieved items, by label or by scored pairs, and the mean metrics with their confidence intervals.

The query itself and its duplicates never count as relevant."""

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
from indexmill.tasks.metrics.ranking import compute_query_metrics


@dataclass(frozen=True)
class RelevanceResult:
    """judged: the queries that have a relevant item, bool (queries,); the rest is of these alone, in their order.

    found: their rankings without themselves and their duplicates, int64 (judged, depth); hits: which places are relevant. relevant: how
    many items of the database are, int64 (judged,). columns: measures, float64 (judged,). labels: label codes of all queries.
    """

    source: Literal["label", "pairs"] | None
    judged: np.ndarray
    labels: np.ndarray
    retrieved: np.ndarray
    hits: np.ndarray
    relevant: np.ndarray
    columns: dict[str, np.ndarray]


class RelevanceJudge:
    """Knows labels and duplicate groups of all items: 28 bytes an item."""

    def __init__(self, root: Root, embeddings: EmbeddingSet, indexed: EmbeddingSet) -> None:
        """embeddings: all items; held: those that the index is made of."""
        self.root, self.indexed = root, indexed
        self.labels = ItemLabels(root, embeddings, indexed)
        self.groups = DuplicateGroups(root.file(embeddings.items), temp_dir=root.tmp)

    def has_relevance_source(self, pairs: FileRef | None, relevance_threshold: float | None) -> bool:
        """Whether there is anything to judge by; where there is not, nobody needs deep rankings."""
        return bool(self.labels.names) or (pairs is not None and relevance_threshold is not None)

    def judged(self, run: RetrievalRun, ks: tuple[int, ...], pairs: FileRef | None, relevance_threshold: float | None) -> RelevanceResult:
        """By scored pairs where there are some and `relevance_threshold` says which count, else by label."""
        return (
            self.judge_by_label(run, ks)
            if pairs is None or relevance_threshold is None
            else self.judge_by_pairs(run, ks, pairs, relevance_threshold)
        )

    def judge_by_label(self, run: RetrievalRun, ks: tuple[int, ...]) -> RelevanceResult:
        """An item with the query's label is relevant; a query without a label, or alone with it, is not judged."""
        labels = self.labels.lookup(run.ids)
        groups, retrieved, own = self._drop_own(run)
        counts = self.labels.count("database") if self.labels.names else np.zeros(1, np.int64)
        relevant = np.where(labels == UNLABELED, 0, counts[labels])
        if own.any() or (relevant > 0).any():
            relevant = relevant - count_own_relevant(run.ids, groups, labels, self._read_database())
        judged = relevant > 0
        hits = (self.labels.lookup(retrieved[judged]) == labels[judged, None]) & (retrieved[judged] >= 0)
        columns = compute_query_metrics(hits, relevant[judged], ks) if judged.any() else {}
        return RelevanceResult("label" if judged.any() else None, judged, labels, retrieved[judged], hits, relevant[judged], columns)

    def judge_by_pairs(self, run: RetrievalRun, ks: tuple[int, ...], pairs: FileRef, relevance_threshold: float) -> RelevanceResult:
        """An item that a pair scored `relevance_threshold` or more joins to the query is relevant, and is worth the score to nDCG."""
        labels = self.labels.lookup(run.ids)
        _, retrieved, _ = self._drop_own(run)
        qrels = self._load_qrels(run.ids, pairs, relevance_threshold)
        relevant = qrels.relevant
        judged = relevant > 0
        gains = qrels.look_up_gains(retrieved)[judged]
        ideal_gains = qrels.ideal_gains(max(ks))[judged]
        columns = compute_query_metrics(gains > 0, relevant[judged], ks, gains, ideal_gains) if judged.any() else {}
        return RelevanceResult("pairs" if judged.any() else None, judged, labels, retrieved[judged], gains > 0, relevant[judged], columns)

    def find_own_pairs(self, ids: np.ndarray, database: np.ndarray) -> np.ndarray:
        """(query row, database row) of the queries themselves and their duplicates among `database` (ids): int64 (pairs, 2)."""
        places, groups = np.searchsorted(database, ids), self.groups.lookup(database)
        itself = database[np.minimum(places, len(database) - 1)] == ids if len(database) else np.zeros(len(ids), bool)
        retrieved = [np.stack([np.flatnonzero(itself), places[itself]], axis=1)]
        order = np.argsort(groups, kind="stable")
        for row, group in enumerate(self.groups.lookup(ids)):
            if group >= 0:
                first, last = np.searchsorted(groups[order], [group, group + 1])
                same = order[first:last]
                retrieved.append(np.stack([np.full(len(same), row), same], axis=1))
        return np.unique(np.concatenate(retrieved), axis=0)

    def _drop_own(self, run: RetrievalRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups of the queries, rankings without the queries' own, and which places those were."""
        groups = self.groups.lookup(run.ids)
        own = mask_own_results(run.ids, groups, run.retrieved, self.groups.lookup(run.retrieved))
        return groups, drop_excluded(run.retrieved, own) if own.any() else run.retrieved, own

    def _read_database(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        sql = f"SELECT item_id FROM {parquet.scan_sql(self.root.file(self.indexed.items))} WHERE side = 'database'"
        with parquet.query(sql, temp_dir=self.root.tmp) as batches:
            for batch in batches:
                ids = batch.column("item_id").to_numpy()
                yield ids, self.groups.lookup(ids), self.labels.lookup(ids)

    def _load_qrels(self, ids: np.ndarray, pairs: FileRef, relevance_threshold: float) -> Qrels:
        """The pairs of which one item is among the queries and the other stands in the database."""
        table, items = (parquet.scan_sql(self.root.file(ref)) for ref in (pairs, self.indexed.items))
        sided = f"SELECT item_id FROM {items} WHERE side = 'database'"
        ways = " UNION ALL ".join(
            f"SELECT {query} AS query, {item} AS item_id, score FROM {table} WHERE score >= $least"
            for query, item in (("item_a", "item_b"), ("item_b", "item_a"))
        )
        rows, retrieved, gains = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
        order = np.argsort(ids)
        with parquet.query(
            f"SELECT * FROM ({ways}) SEMI JOIN ({sided}) USING (item_id)", {"least": relevance_threshold}, temp_dir=self.root.tmp
        ) as batches:
            for batch in batches:
                queries = batch.column("query").to_numpy()
                places = np.minimum(np.searchsorted(ids[order], queries), len(ids) - 1)
                mine = ids[order][places] == queries
                rows.append(order[places[mine]])
                retrieved.append(batch.column("item_id").to_numpy()[mine])
                gains.append(batch.column("score").to_numpy()[mine])
        row, item = np.concatenate(rows), np.concatenate(retrieved)
        own = mask_own_results(ids[row], self.groups.lookup(ids[row]), item[:, None], self.groups.lookup(item[:, None]))[:, 0]
        return Qrels(len(ids), row[~own], item[~own], np.concatenate(gains)[~own])


ConfidenceIntervals = dict[str, tuple[float, float]]


def aggregate_metrics(judged: RelevanceResult, agreed: dict[str, np.ndarray]) -> tuple[dict[str, float], ConfidenceIntervals]:
    """The mean of every measure, and the 95 % interval of those that every query has a value of.

    Relevance is over the judged queries, agreement over all. `map_by_label` is the mean over labels of their mAP.
    """
    metrics = summarize_ann_metrics(agreed)
    bounds: ConfidenceIntervals = {}
    for columns in (judged.columns, {name: column for name, column in agreed.items() if np.isfinite(column).all()}):
        if columns and len(next(iter(columns.values()))):
            mean, low, high = (ends.tolist() for ends in bootstrap_intervals(np.stack(list(columns.values()), axis=1)))
            metrics |= dict(zip(columns, mean, strict=True))
            bounds |= dict(zip(columns, zip(low, high, strict=True), strict=True))
    if judged.source == "label":
        labels = judged.labels[judged.judged]
        metrics["map_by_label"] = macro_average(np.array([judged.columns["map"][labels == code].mean() for code in np.unique(labels)]))
    return metrics, bounds
