"""Which results are relevant: those of the query's own label, or those that a scored pair joins to it. Never itself or its duplicates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from indexmill.storage import tables
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.answers import Answers
from indexmill.tasks.measures.exclusion import moved_up, own_places, own_relevant
from indexmill.tasks.measures.groups import Groups
from indexmill.tasks.measures.judgements import Judgements
from indexmill.tasks.measures.labels import UNLABELLED, Labels
from indexmill.tasks.measures.per_query import per_query


@dataclass(frozen=True)
class Judged:
    """judged: the queries that have a relevant item, bool (queries,); the rest is of these alone, in their order.

    found: their rankings without themselves and their duplicates, int64 (judged, depth); hits: which places are relevant. relevant: how
    many items of the database are, int64 (judged,). columns: measures, float64 (judged,). labels: label codes of all queries.
    """

    by: Literal["label", "pairs"] | None
    judged: np.ndarray
    labels: np.ndarray
    found: np.ndarray
    hits: np.ndarray
    relevant: np.ndarray
    columns: dict[str, np.ndarray]


class Judge:
    """Knows labels and duplicate groups of all items: 28 bytes an item."""

    def __init__(self, root: Root, embeddings: EmbeddingSet, held: EmbeddingSet) -> None:
        """embeddings: all items; held: those that the index is made of."""
        self.root, self.held = root, held
        self.labels = Labels(root, embeddings, held)
        self.groups = Groups(root.file(embeddings.items), spill=root.tmp)

    def can_judge(self, pairs: FileRef | None, least: float | None) -> bool:
        """Whether there is anything to judge by; where there is not, nobody needs deep rankings."""
        return bool(self.labels.names) or (pairs is not None and least is not None)

    def judged(self, given: Answers, ks: tuple[int, ...], pairs: FileRef | None, least: float | None) -> Judged:
        """By scored pairs where there are some and `least` says which count, else by label."""
        return self.by_label(given, ks) if pairs is None or least is None else self.by_pairs(given, ks, pairs, least)

    def by_label(self, given: Answers, ks: tuple[int, ...]) -> Judged:
        """An item with the query's label is relevant; a query without a label, or alone with it, is not judged."""
        labels = self.labels.of(given.ids)
        groups, found, own = self._without_own(given)
        counts = self.labels.count("database") if self.labels.names else np.zeros(1, np.int64)
        relevant = np.where(labels == UNLABELLED, 0, counts[labels])
        if own.any() or (relevant > 0).any():
            relevant = relevant - own_relevant(given.ids, groups, labels, self._database())
        judged = relevant > 0
        hits = (self.labels.of(found[judged]) == labels[judged, None]) & (found[judged] >= 0)
        columns = per_query(hits, relevant[judged], ks) if judged.any() else {}
        return Judged("label" if judged.any() else None, judged, labels, found[judged], hits, relevant[judged], columns)

    def by_pairs(self, given: Answers, ks: tuple[int, ...], pairs: FileRef, least: float) -> Judged:
        """An item that a pair scored `least` or more joins to the query is relevant, and is worth the score to nDCG."""
        labels = self.labels.of(given.ids)
        _, found, _ = self._without_own(given)
        judgements = self._judgements(given.ids, pairs, least)
        relevant = judgements.relevant
        judged = relevant > 0
        gains = judgements.gains(found)[judged]
        ideal = judgements.ideal(max(ks))[judged]
        columns = per_query(gains > 0, relevant[judged], ks, gains, ideal) if judged.any() else {}
        return Judged("pairs" if judged.any() else None, judged, labels, found[judged], gains > 0, relevant[judged], columns)

    def own_pairs(self, ids: np.ndarray, database: np.ndarray) -> np.ndarray:
        """(query row, database row) of the queries themselves and their duplicates among `database` (ids): int64 (pairs, 2)."""
        places, groups = np.searchsorted(database, ids), self.groups.of(database)
        itself = database[np.minimum(places, len(database) - 1)] == ids if len(database) else np.zeros(len(ids), bool)
        found = [np.stack([np.flatnonzero(itself), places[itself]], axis=1)]
        order = np.argsort(groups, kind="stable")
        for row, group in enumerate(self.groups.of(ids)):
            if group >= 0:
                first, last = np.searchsorted(groups[order], [group, group + 1])
                same = order[first:last]
                found.append(np.stack([np.full(len(same), row), same], axis=1))
        return np.unique(np.concatenate(found), axis=0)

    def _without_own(self, given: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Groups of the queries, rankings without the queries' own, and which places those were."""
        groups = self.groups.of(given.ids)
        own = own_places(given.ids, groups, given.found, self.groups.of(given.found))
        return groups, moved_up(given.found, own) if own.any() else given.found, own

    def _database(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        sql = f"SELECT item_id FROM {tables.parquet(self.root.file(self.held.items))} WHERE side = 'database'"
        with tables.query(sql, spill=self.root.tmp) as batches:
            for batch in batches:
                ids = batch.column("item_id").to_numpy()
                yield ids, self.groups.of(ids), self.labels.of(ids)

    def _judgements(self, ids: np.ndarray, pairs: FileRef, least: float) -> Judgements:
        """The pairs of which one item is among the queries and the other stands in the database."""
        table, items = (tables.parquet(self.root.file(ref)) for ref in (pairs, self.held.items))
        sided = f"SELECT item_id FROM {items} WHERE side = 'database'"
        ways = " UNION ALL ".join(
            f"SELECT {query} AS query, {item} AS item_id, score FROM {table} WHERE score >= $least"
            for query, item in (("item_a", "item_b"), ("item_b", "item_a"))
        )
        rows, found, gains = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
        order = np.argsort(ids)
        with tables.query(f"SELECT * FROM ({ways}) SEMI JOIN ({sided}) USING (item_id)", {"least": least}, spill=self.root.tmp) as batches:
            for batch in batches:
                queries = batch.column("query").to_numpy()
                places = np.minimum(np.searchsorted(ids[order], queries), len(ids) - 1)
                mine = ids[order][places] == queries
                rows.append(order[places[mine]])
                found.append(batch.column("item_id").to_numpy()[mine])
                gains.append(batch.column("score").to_numpy()[mine])
        row, item = np.concatenate(rows), np.concatenate(found)
        own = own_places(ids[row], self.groups.of(ids[row]), item[:, None], self.groups.of(item[:, None]))[:, 0]
        return Judgements(len(ids), row[~own], item[~own], np.concatenate(gains)[~own])
