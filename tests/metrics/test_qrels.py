"""Qrels: judged pairs and their gains."""

from __future__ import annotations

import numpy as np

from indexmill.tasks.metrics.qrels import Qrels


def test_gains_of_judged_pairs_are_looked_up() -> None:
    """Query 0 has items 7 (gain 2) and 5 (gain 1, judged twice: the larger one counts), query 1 item 7 with gain 0,
    query 2 none.
    """
    qrels = Qrels(3, np.array([0, 0, 1, 0]), np.array([7, 5, 7, 5]), np.array([2.0, 0.5, 0, 1]))
    assert qrels.look_up_gains(np.array([[5, 6, 7], [7, 5, -1], [5, 7, 1]])).tolist() == [[1, 0, 2], [0, 0, 0], [0, 0, 0]]
    assert qrels.relevant.tolist() == [2, 0, 0]
    assert qrels.ideal_gains(3).tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert qrels.ideal_gains(1).tolist() == [[2], [0], [0]]


def test_without_judged_pairs_nothing_is_relevant() -> None:
    """Pairs without gains have gain 1."""
    none = Qrels(2, np.empty(0, np.int64), np.empty(0, np.int64))
    assert none.look_up_gains(np.array([[1], [-1]])).tolist() == [[0], [0]]
    assert none.relevant.tolist() == [0, 0]
    assert none.ideal_gains(2).tolist() == [[0, 0], [0, 0]]
    assert Qrels(1, np.array([0]), np.array([4])).look_up_gains(np.array([[4]])).tolist() == [[1]]
