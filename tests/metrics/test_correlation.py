"""Correlations of cosine similarity with human scores, compared with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from indexmill.tasks.metrics.correlation import compute_correlations, cosine_similarities, pearson, spearman


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40))
def test_both_correlations_agree_with_scipy(seed: int, count: int) -> None:
    """Human scores come in steps, so they tie."""
    random = np.random.default_rng(seed)
    cosine, human_scores = random.random(count).round(1), random.integers(0, 6, count).astype(float)
    if np.ptp(cosine) == 0 or np.ptp(human_scores) == 0:
        assert spearman(cosine, human_scores) is None
    else:
        assert spearman(cosine, human_scores) == pytest.approx(stats.spearmanr(cosine, human_scores).statistic)
        assert pearson(cosine, human_scores) == pytest.approx(stats.pearsonr(cosine, human_scores).statistic)


def test_spearman_by_hand_with_a_tie() -> None:
    """Ranks 1, 2, 3 against 1.5, 1.5, 3: covariance 1.5 over sqrt(2 * 1.5)."""
    assert spearman(np.array([0.1, 0.2, 0.9]), np.array([1.0, 1.0, 5.0])) == pytest.approx(1.5 / 3**0.5)


def test_spearman_depends_only_on_order() -> None:
    """Cubing keeps Spearman and changes Pearson; negating the scores changes the sign."""
    random = np.random.default_rng(0)
    left, right = random.random(50), random.random(50)
    assert spearman(left**3, right) == pytest.approx(spearman(left, right))
    assert pearson(left**3, right) != pytest.approx(pearson(left, right))
    assert spearman(-left, right) == pytest.approx(-(spearman(left, right) or 0))


def test_cosines_are_computed_in_blocks_of_any_vectors() -> None:
    """(3, 4) with (4, 3) is 24/25, with itself 1, with its opposite -1; with zeros 0."""
    left, right = np.array([[3, 4], [3, 4], [3, 4], [3, 4]], np.float32), np.array([[4, 3], [6, 8], [-3, -4], [0, 0]], np.float32)
    assert cosine_similarities([(left[:3], right[:3]), (left[3:], right[3:])]) == pytest.approx([0.96, 1, -1, 0])
    assert cosine_similarities([]).tolist() == []


def test_files_are_correlated_separately_and_overall_is_not_their_mean() -> None:
    """Each file rises perfectly; together they do not. A file of one pair has no correlation."""
    cosine, human_scores = np.array([0.1, 0.2, 0.8, 0.9, 0.5]), np.array([4.0, 5, 0, 1, 2])
    correlations = compute_correlations(cosine, human_scores, np.array(["a", "a", "b", "b", "c"]))
    assert correlations["a"] == {"spearman": pytest.approx(1), "pearson": pytest.approx(1), "pairs": 2}
    assert correlations["b"]["spearman"] == pytest.approx(1)
    assert correlations["c"] == {"spearman": None, "pearson": None, "pairs": 1}
    assert correlations["overall"]["pairs"] == 5
    assert correlations["overall"]["spearman"] == pytest.approx(stats.spearmanr(cosine, human_scores).statistic)
    assert correlations["overall"]["spearman"] < 0
