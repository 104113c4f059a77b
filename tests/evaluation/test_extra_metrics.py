"""Metrics of the embedding apart from the index, compared with NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from indexmill.configs.models import IndexConfig
from indexmill.storage.records import Side
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.extra_metrics import compute_full_ranking_map, correlate_scored_pairs, evaluate_captions
from tests.evaluation.embedding_sets import write_embeddings, write_pairs
from tests.evaluation.small_index import SmallIndex, make_unit_vectors


def test_full_ranking_map_does_not_depend_on_the_index(small: SmallIndex, root: Root) -> None:
    """It is the mean of NumPy's average precision over all 60 items; L2 has none."""
    full_ranking = compute_full_ranking_map(root, small.judge, small.run, small.relevance, IndexConfig())
    average_precisions = []
    for row in np.flatnonzero(small.relevance.judged):
        order = np.argsort(-(small.vectors[60 + row] @ small.vectors[:60].T))
        hits = np.array([small.labels[item] == small.labels[60 + row] for item in order])
        average_precisions.append((np.cumsum(hits) / np.arange(1, 61))[hits].mean())
    assert full_ranking.queries == len(average_precisions)
    assert full_ranking.metrics["map_full_depth"] == pytest.approx(np.mean(average_precisions))
    assert compute_full_ranking_map(root, small.judge, small.run, small.relevance, IndexConfig(metric="l2")).metrics == {}


def test_scored_pairs_are_correlated_per_file_and_overall(small: SmallIndex, root: Root) -> None:
    """Correlations equal SciPy's Spearman; pairs of items without a vector are left out."""
    random = np.random.default_rng(1)
    rows = [("x" if n < 30 else "y", float(random.integers(0, 6)), *map(int, random.integers(1, 81, 2))) for n in range(70)]
    correlations = correlate_scored_pairs(root, small.embeddings, write_pairs(root, [*rows, ("x", 5.0, 1, 999)]))
    cosine = [float(small.vectors[a - 1] @ small.vectors[b - 1]) for _, _, a, b in rows]
    scores = [row[1] for row in rows]
    assert correlations["overall"]["pairs"] == 70
    assert correlations["overall"]["spearman"] == pytest.approx(spearmanr(cosine, scores).statistic)
    assert correlations["x"]["spearman"] == pytest.approx(spearmanr(cosine[:30], scores[:30]).statistic)


def test_captions_are_ranked_among_the_held_out_images(root: Root) -> None:
    """Ten held-out pairs; the captions have the vectors of their images, except for two that are swapped."""
    random = np.random.default_rng(0)
    sides: list[Side] = ["database"] * 5 + ["query"] * 10
    images = make_unit_vectors(random, 15)
    texts = images.copy()
    texts[[5, 6]] = images[[6, 5]]
    embeddings = write_embeddings(root, images, sides, [None] * 15).model_copy(update={"modality": "image"})
    assert evaluate_captions(root, embeddings, include_leaks=False, max_items=100, seed=0) == {}
    with_captions = embeddings.model_copy(update={"captions": write_embeddings(root, texts, sides, [None] * 15, digest="t")})
    metrics = evaluate_captions(root, with_captions, include_leaks=False, max_items=100, seed=0)
    assert metrics["text_to_image_recall_at_1"] == metrics["image_to_text_recall_at_1"] == 0.8
    assert metrics["text_to_image_median_rank"] == 1
