"""Who is relevant to whom, by hand: labels, duplicate groups, scored pairs."""

from __future__ import annotations

import numpy as np
import pytest
from sets import scored, stored

from indexmill.storage.records import Side
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.relevance import RelevanceJudge
from indexmill.tasks.evaluation.retrieval import RetrievalRun

SIDES: list[Side] = ["database"] * 6 + ["query"] * 3
LABELS = ["a", "a", "b", "a", None, "b", "a", "b", "c"]
GROUPS = ["g1", "g2", "g3", "g4", "g5", "g6", "g1", "g8", "g9"]  # query 7 is a duplicate of item 1


@pytest.fixture
def judge(root: Root) -> RelevanceJudge:
    embeddings = stored(root, np.eye(9), SIDES, LABELS, GROUPS)
    return RelevanceJudge(root, embeddings, embeddings)


def asked(retrieved: list[list[int]]) -> RetrievalRun:
    """Queries 7, 8 and 9 with these rankings."""
    return RetrievalRun(
        np.array([7, 8, 9]), np.eye(9, dtype=np.float32)[6:], np.zeros((3, len(retrieved[0])), np.float32), np.array(retrieved)
    )


def test_duplicates_leave_the_ranking_and_the_denominator(judge: RelevanceJudge) -> None:
    """Query 7 (a) finds its duplicate 1, then 3 (b), 2 and 4 (a): P@2 = 1/2 and R@2 = 1/2 of the two that are left.

    Query 8 (b) finds 3, nothing, 6; query 9 has a label that the database lacks and is not judged.
    """
    judged = judge.judge_by_label(asked([[1, 3, 2, 4], [3, 5, 6, -1], [1, 2, 3, 4]]), (1, 2))
    assert judged.source == "label"
    assert judged.judged.tolist() == [True, True, False]
    assert judged.relevant.tolist() == [2, 2]
    assert judged.retrieved.tolist() == [[3, 2, 4, -1], [3, 5, 6, -1]]
    assert judged.hits.tolist() == [[False, True, True, False], [True, False, True, False]]
    assert judged.columns["precision_at_2"].tolist() == [0.5, 0.5]
    assert judged.columns["recall_at_2"].tolist() == [0.5, 0.5]
    assert judged.columns["map"] == pytest.approx([(1 / 2 + 2 / 3) / 2, (1 + 2 / 3) / 2])


def test_pairs_judge_by_their_scores(judge: RelevanceJudge, root: Root) -> None:
    """From 3 on: query 7 is joined to 2 (4.0) and its own duplicate 1 (5.0), which does not count; query 8 to 6 (3.0), either way round.

    A pair of two queries or of two database items says nothing here.
    """
    pairs = scored(root, [("f", 4.0, 7, 2), ("f", 5.0, 1, 7), ("f", 3.0, 6, 8), ("f", 2.9, 8, 3), ("f", 5.0, 7, 8), ("f", 5.0, 1, 2)])
    judged = judge.judge_by_pairs(asked([[1, 3, 2, 4], [3, 5, 6, -1], [1, 2, 3, 4]]), (1, 2, 3), pairs, 3.0)
    assert judged.source == "pairs"
    assert judged.judged.tolist() == [True, True, False]
    assert judged.relevant.tolist() == [1, 1]
    assert judged.hits.tolist() == [[False, True, False, False], [False, False, True, False]]
    assert judged.columns["mrr"] == pytest.approx([1 / 2, 1 / 3])
    assert judged.columns["ndcg_at_3"] == pytest.approx([1 / np.log2(3), 1 / np.log2(4)])


def test_nobody_is_judged_without_labels(root: Root) -> None:
    """Nothing is relevant, and no figure is made up."""
    embeddings = stored(root, np.eye(9), SIDES, [None] * 9)
    judged = RelevanceJudge(root, embeddings, embeddings).judged(asked([[1, 2], [1, 2], [1, 2]]), (1,), None, None)
    assert (judged.source, judged.columns, judged.judged.any()) == (None, {}, np.False_)


def test_own_pairs_are_the_duplicates_in_the_database(judge: RelevanceJudge) -> None:
    """Query 7 (row 0) and item 1 (row 0 of the database) share a group; item 4 asked as a query finds itself."""
    database = np.arange(1, 7)
    assert judge.find_own_pairs(np.array([7, 4, 9]), database).tolist() == [[0, 0], [1, 3]]
