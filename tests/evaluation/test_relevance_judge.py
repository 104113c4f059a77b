"""Relevance by label, duplicate group and scored pair, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from indexmill.storage.records import Side
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.relevance import RelevanceJudge
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from tests.evaluation.embedding_sets import write_embeddings, write_pairs

SIDES: list[Side] = ["database"] * 6 + ["query"] * 3
LABELS = ["a", "a", "b", "a", None, "b", "a", "b", "c"]
GROUPS = ["g1", "g2", "g3", "g4", "g5", "g6", "g1", "g8", "g9"]  # query 7 is a duplicate of item 1


@pytest.fixture
def judge(root: Root) -> RelevanceJudge:
    embeddings = write_embeddings(root, np.eye(9), SIDES, LABELS, GROUPS)
    return RelevanceJudge(root, embeddings, embeddings)


def make_run(retrieved: list[list[int]]) -> RetrievalRun:
    """Queries 7, 8 and 9 with these rankings."""
    return RetrievalRun(
        np.array([7, 8, 9]), np.eye(9, dtype=np.float32)[6:], np.zeros((3, len(retrieved[0])), np.float32), np.array(retrieved)
    )


def test_duplicates_count_neither_in_the_ranking_nor_in_the_denominator(judge: RelevanceJudge) -> None:
    """Query 7 (a) retrieves its duplicate 1, then 3 (b), 2 and 4 (a): P@2 = 1/2 and R@2 = 1/2 of the two that remain.

    Query 8 (b) retrieves 3, an unlabeled item, 6; query 9 has a label that the database lacks and is not judged.
    """
    relevance = judge.judge_by_label(make_run([[1, 3, 2, 4], [3, 5, 6, -1], [1, 2, 3, 4]]), (1, 2))
    assert relevance.source == "label"
    assert relevance.judged.tolist() == [True, True, False]
    assert relevance.relevant.tolist() == [2, 2]
    assert relevance.retrieved.tolist() == [[3, 2, 4, -1], [3, 5, 6, -1]]
    assert relevance.hits.tolist() == [[False, True, True, False], [True, False, True, False]]
    assert relevance.metrics["precision_at_2"].tolist() == [0.5, 0.5]
    assert relevance.metrics["recall_at_2"].tolist() == [0.5, 0.5]
    assert relevance.metrics["map"] == pytest.approx([(1 / 2 + 2 / 3) / 2, (1 + 2 / 3) / 2])


def test_pairs_above_the_threshold_are_relevant(judge: RelevanceJudge, root: Root) -> None:
    """Threshold 3: query 7 is joined to 2 (4.0) and to its duplicate 1 (5.0), which does not count; query 8 to 6 (3.0), in any direction.

    A pair of two queries or of two database items does not count.
    """
    pairs = write_pairs(root, [("f", 4.0, 7, 2), ("f", 5.0, 1, 7), ("f", 3.0, 6, 8), ("f", 2.9, 8, 3), ("f", 5.0, 7, 8), ("f", 5.0, 1, 2)])
    relevance = judge.judge_by_pairs(make_run([[1, 3, 2, 4], [3, 5, 6, -1], [1, 2, 3, 4]]), (1, 2, 3), pairs, 3.0)
    assert relevance.source == "pairs"
    assert relevance.judged.tolist() == [True, True, False]
    assert relevance.relevant.tolist() == [1, 1]
    assert relevance.hits.tolist() == [[False, True, False, False], [False, False, True, False]]
    assert relevance.metrics["mrr"] == pytest.approx([1 / 2, 1 / 3])
    assert relevance.metrics["ndcg_at_3"] == pytest.approx([1 / np.log2(3), 1 / np.log2(4)])


def test_no_query_is_judged_without_labels(root: Root) -> None:
    """Nothing is relevant, and there are no metrics."""
    embeddings = write_embeddings(root, np.eye(9), SIDES, [None] * 9)
    relevance = RelevanceJudge(root, embeddings, embeddings).judge(make_run([[1, 2], [1, 2], [1, 2]]), (1,), None, None)
    assert (relevance.source, relevance.metrics, relevance.judged.any()) == (None, {}, np.False_)


def test_own_pairs_are_the_duplicates_in_the_database(judge: RelevanceJudge) -> None:
    """Query 7 (row 0) and item 1 (row 0 of the database) share a group; item 4 as a query is its own match."""
    database = np.arange(1, 7)
    assert judge.find_own_pairs(np.array([7, 4, 9]), database).tolist() == [[0, 0], [1, 3]]
