"""What an evaluation is made of, by hand and against the libraries."""

from __future__ import annotations

from pathlib import Path

import faiss
import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, IPrec
from scipy.stats import spearmanr
from sets import scored, stored

from indexmill.configs.models import IndexConfig
from indexmill.storage.index_records import SearchParams
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.extra_metrics import compute_full_ranking_map, correlate_scored_pairs, evaluate_captions
from indexmill.tasks.evaluation.relevance import RelevanceJudge, aggregate_metrics
from indexmill.tasks.evaluation.report_data import choose_example_rows
from indexmill.tasks.evaluation.retrieval import (
    RetrievalRun,
    choose_cutoffs,
    compute_ann_metrics,
    compute_ground_truth,
    run_queries,
    summarize_ann_metrics,
)
from indexmill.tasks.evaluation.search_sweep import sweep_search_params
from indexmill.tasks.evaluation.tables import write_per_label, write_per_query
from indexmill.tasks.evaluation.trec import write_qrels, write_run
from indexmill.tasks.indexing.reranking import make_store
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.ranking import interpolated_precision

DIM = 16


def unit(random: np.random.Generator, count: int) -> np.ndarray:
    vectors = random.standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Small:
    """60 database items and 20 queries of four labels, their index, and what it answered to a depth of 40."""

    def __init__(self, root: Root, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.vectors = unit(random, 80)
        sides: list[Side] = ["database"] * 60 + ["query"] * 20
        self.labels = [None if code == 4 else "abcd"[code] for code in random.integers(0, 5, 80)]
        self.embeddings: EmbeddingSet = stored(root, self.vectors, sides, self.labels)
        index = faiss.index_factory(DIM, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
        index.train(self.vectors[:60])
        index.add_with_ids(self.vectors[:60], np.arange(1, 61))
        self.searcher = Searcher([index], "cosine", SearchParams(nprobe=2))
        self.given = run_queries(self.searcher, np.arange(61, 81), self.vectors[60:], 10, 40)
        self.judge = RelevanceJudge(root, self.embeddings, self.embeddings)
        self.judged = self.judge.judge_by_label(self.given, (1, 5, 10))


@pytest.fixture
def small(root: Root) -> Small:
    return Small(root)


def truth_of(root: Root, small: Small, k: int = 10) -> tuple[np.ndarray, np.ndarray, str]:
    retrieved = compute_ground_truth(root, root.path / "t", small.embeddings, small.embeddings, small.given, k, faiss.METRIC_INNER_PRODUCT)
    return retrieved.scores, retrieved.ids, retrieved.file.path


def test_the_first_places_are_those_of_a_search_for_so_many() -> None:
    """Coarse codes rank few candidates again when few are asked for: the first three are those of a search for three, each once."""
    vectors, ids = unit(np.random.default_rng(0), 2000), np.arange(1, 2001)
    index = faiss.index_factory(DIM, "IVF4,PQ4x4", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    searcher = Searcher([index], "cosine", SearchParams(nprobe=4, rerank_candidates=3), stores=[make_store(ids, vectors, "cosine")])
    queries = unit(np.random.default_rng(1), 50)
    retrieved = run_queries(searcher, np.arange(50), queries, 3, 40).retrieved
    three, forty = (searcher.search(queries, k)[1] for k in (3, 40))
    assert retrieved[:, :3].tolist() == three.tolist()
    assert three.tolist() != forty[:, :3].tolist()
    for row, deep in zip(retrieved.tolist(), forty.tolist(), strict=True):
        assert len(set(row)) == 40
        assert [item for item in deep if item not in row[:3]][:37] == row[3:]


def test_ground_truth_is_exact_and_remembered_for_these_queries_alone(root: Root, small: Small) -> None:
    """NumPy's own ranking; the file is read again, a damaged one is not believed, other queries or another database get another."""
    exact = np.argsort(-(small.vectors[60:] @ small.vectors[:60].T), axis=1, kind="stable")[:, :10] + 1
    scores, ids, path = truth_of(root, small)
    assert ids.tolist() == exact.tolist()
    np.savez(root.path / path, scores=scores, ids=ids[:, ::-1], key=np.load(root.path / path)["key"])
    assert truth_of(root, small)[1].tolist() == exact[:, ::-1].tolist()  # it is read, not made anew
    (root.path / path).write_bytes((root.path / path).read_bytes()[:-100])
    assert truth_of(root, small)[1].tolist() == exact.tolist()
    changed = small.embeddings.model_copy(update={"digest": "other"})
    other = compute_ground_truth(root, root.path / "t", changed, small.embeddings, small.given, 10, faiss.METRIC_INNER_PRODUCT)
    fewer = RetrievalRun(*(part[:5] for part in (small.given.ids, small.given.vectors, small.given.scores, small.given.retrieved)))
    fewer_truth = compute_ground_truth(root, root.path / "t", small.embeddings, small.embeddings, fewer, 10, faiss.METRIC_INNER_PRODUCT)
    assert len({path, other.file.path, fewer_truth.file.path}) == 3


def test_agreement_counts_what_narrow_search_misses(root: Root, small: Small) -> None:
    """Two lists of eight: recall by a count of sets, below 1; distances agree wherever ids do."""
    ground_truth = compute_ground_truth(root, root.path, small.embeddings, small.embeddings, small.given, 10, faiss.METRIC_INNER_PRODUCT)
    columns = compute_ann_metrics(small.given, ground_truth, choose_cutoffs((1, 5), 60), faiss.METRIC_INNER_PRODUCT)
    by_hand = [len(set(f[:5]) & set(t[:5])) / 5 for f, t in zip(small.given.retrieved.tolist(), ground_truth.ids.tolist(), strict=True)]
    assert columns["ann_recall_at_5"].tolist() == by_hand
    assert 0 < np.mean(by_hand) < 1
    assert (columns["ann_distance_recall_at_5"] >= columns["ann_recall_at_5"]).all()
    figures = summarize_ann_metrics(columns)
    assert figures["ann_share_below_half_at_10"] == np.mean(columns["ann_recall_at_10"] < 0.5)
    assert figures["ann_distance_ratio_at_10"] >= 1


def test_means_and_tables_say_the_same(small: Small, root: Root, tmp_path: Path) -> None:
    """per_query.parquet averaged is metrics; per_label.parquet weighted by its queries too; not judged is null and not zero."""
    ground_truth = compute_ground_truth(root, root.path, small.embeddings, small.embeddings, small.given, 10, faiss.METRIC_INNER_PRODUCT)
    agreed = compute_ann_metrics(small.given, ground_truth, [1, 10], faiss.METRIC_INNER_PRODUCT)
    metrics, bounds = aggregate_metrics(small.judged, agreed)
    write_per_query(tmp_path / "q.parquet", small.given, small.judge, small.judged, agreed)
    rows = write_per_label(tmp_path / "l.parquet", small.judge, small.judged)
    queries = pq.read_table(tmp_path / "q.parquet").to_pylist()
    unlabelled = [row for row in queries if row["label"] is None]
    assert unlabelled
    assert all(row["map"] is None and row["relevant"] is None and row["ann_recall_at_10"] is not None for row in unlabelled)
    assert [row["label"] for row in queries] == small.labels[60:]
    assert [row["neighbors"] for row in queries] == small.given.retrieved[:, :10].tolist()
    for name in ("map", "ndcg_at_5", "recall_at_10", "ann_recall_at_10"):
        known = [row[name] for row in queries if row[name] is not None]
        assert np.mean(known) == pytest.approx(metrics[name])
        assert bounds[name][0] <= metrics[name] <= bounds[name][1]
    assert sum(row["queries"] * row["map"] for row in rows) / sum(row["queries"] for row in rows) == pytest.approx(metrics["map"])
    for row in rows:
        own = [query["map"] for query in queries if query["label"] == row["label"] and query["map"] is not None]
        assert min(own) <= row["map_low"] <= row["map"] <= row["map_high"] <= max(own)
    assert metrics["map_by_label"] == pytest.approx(np.mean([row["map"] for row in rows]))
    assert pq.read_table(tmp_path / "l.parquet").to_pylist() == rows


def test_run_and_qrels_give_trec_eval_the_same_figures(small: Small, root: Root, tmp_path: Path) -> None:
    """ir_measures reads both files and finds our mAP at the depth of the run."""
    write_per_query(tmp_path / "q.parquet", small.given, small.judge, small.judged, {})
    write_run(tmp_path / "run.trec", small.given, higher_is_better=True)
    write_qrels(tmp_path / "qrels.trec", root, small.embeddings, tmp_path / "q.parquet", None, None)
    run, qrels = ir_measures.read_trec_run(str(tmp_path / "run.trec")), list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")))
    assert len(qrels) == small.judged.relevant.sum()
    theirs = ir_measures.calc_aggregate([AP], qrels, run)[AP]
    assert theirs == pytest.approx(small.judged.columns["map"].mean(), abs=1e-6)


def test_qrels_by_pairs_hold_the_scores(small: Small, root: Root, tmp_path: Path) -> None:
    """A pair from either end, rounded; below the least it is left out."""
    pairs = scored(root, [("f", 4.6, 61, 3), ("f", 3.0, 5, 61), ("f", 2.0, 61, 6), ("f", 5.0, 1, 2)])
    judged = small.judge.judge_by_pairs(small.given, (1,), pairs, 3)
    write_per_query(tmp_path / "q.parquet", small.given, small.judge, judged, {})
    write_qrels(tmp_path / "qrels.trec", root, small.embeddings, tmp_path / "q.parquet", pairs, 3)
    assert (tmp_path / "qrels.trec").read_text().splitlines() == ["61 0 3 5", "61 0 5 3"]


def test_full_depth_ranks_exactly_whatever_the_index_finds(small: Small, root: Root) -> None:
    """The mean of scikit-learn-like average precision by NumPy over all 60 items."""
    exact = compute_full_ranking_map(root, small.judge, small.given, small.judged, IndexConfig())
    figures = []
    for row in np.flatnonzero(small.judged.judged):
        order = np.argsort(-(small.vectors[60 + row] @ small.vectors[:60].T))
        hits = np.array([small.labels[item] == small.labels[60 + row] for item in order])
        figures.append((np.cumsum(hits) / np.arange(1, 61))[hits].mean())
    assert exact.queries == len(figures)
    assert exact.metrics["map_full_depth"] == pytest.approx(np.mean(figures))
    assert compute_full_ranking_map(root, small.judge, small.given, small.judged, IndexConfig(metric="l2")).metrics == {}


def test_graded_pairs_correlate_by_file_and_overall(small: Small, root: Root) -> None:
    """SciPy's Spearman of the cosines of both files; pairs of items without a vector are left out."""
    random = np.random.default_rng(1)
    rows = [("x" if n < 30 else "y", float(random.integers(0, 6)), *map(int, random.integers(1, 81, 2))) for n in range(70)]
    retrieved = correlate_scored_pairs(root, small.embeddings, scored(root, [*rows, ("x", 5.0, 1, 999)]))
    cosine = [float(small.vectors[a - 1] @ small.vectors[b - 1]) for _, _, a, b in rows]
    given_scores = [row[1] for row in rows]
    assert retrieved["overall"]["pairs"] == 70
    assert retrieved["overall"]["spearman"] == pytest.approx(spearmanr(cosine, given_scores).statistic)
    assert retrieved["x"]["spearman"] == pytest.approx(spearmanr(cosine[:30], given_scores[:30]).statistic)


def test_captions_find_their_images_among_the_held_out_ones(root: Root) -> None:
    """Ten held-out pairs; the captions' vectors are the images' own but for two that are exchanged."""
    random = np.random.default_rng(0)
    sides: list[Side] = ["database"] * 5 + ["query"] * 10
    images = unit(random, 15)
    texts = images.copy()
    texts[[5, 6]] = images[[6, 5]]
    embeddings = stored(root, images, sides, [None] * 15).model_copy(update={"modality": "image"})
    assert evaluate_captions(root, embeddings, leaking=False, most=100, seed=0) == {}
    both = embeddings.model_copy(update={"captions": stored(root, texts, sides, [None] * 15, digest="t")})
    retrieved = evaluate_captions(root, both, leaking=False, most=100, seed=0)
    assert retrieved["text_to_image_recall_at_1"] == retrieved["image_to_text_recall_at_1"] == 0.8
    assert retrieved["text_to_image_median_rank"] == 1


def test_a_wider_search_finds_no_less_and_the_searcher_stays_as_it_was(root: Root, small: Small) -> None:
    """From a quarter list to all eight; the row of the setting itself is marked."""
    ground_truth = compute_ground_truth(root, root.path, small.embeddings, small.embeddings, small.given, 10, faiss.METRIC_INNER_PRODUCT)
    rows = sweep_search_params(small.searcher, small.given, ground_truth, SearchParams(nprobe=2))
    assert [row["nprobe"] for row in rows] == [1, 2, 4, 8]
    assert [row["nprobe"] for row in rows if row["chosen"]] == [2]
    recalls = [row["recall_at_10"] for row in rows]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1
    assert small.searcher.search_param_value == 2


def test_best_and_worst_are_by_figure_and_never_the_same(root: Root) -> None:
    """Five figures, one unknown: with room for three, two of each."""
    figures = np.array([0.5, np.nan, 0.1, 0.9, 0.3])
    assert choose_example_rows(figures, 5, 3) == {"examples": [0, 1, 2], "best": [3, 0], "worst": [2, 4]}
    assert choose_example_rows(None, 2, 3) == {"examples": [0, 1], "best": [], "worst": []}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any), st.integers(0, 3))
def test_interpolated_precision_is_trec_evals(hits: list[bool], missed: int) -> None:
    """iprec_at_recall at eleven levels, with relevant items that were never found."""
    run = [ir_measures.ScoredDoc("q", f"d{rank:02d}", 100.0 - rank) for rank in range(len(hits))]
    qrels = [ir_measures.Qrel("q", f"d{rank:02d}", 1) for rank, hit in enumerate(hits) if hit]
    qrels += [ir_measures.Qrel("q", f"m{number}", 1) for number in range(missed)]
    levels = [IPrec @ (step / 10) for step in range(11)]
    theirs = ir_measures.calc_aggregate(levels, qrels, run)
    ours = interpolated_precision(np.array([hits]), np.array([len(qrels)]))[0]
    assert ours == pytest.approx([theirs[level] for level in levels], abs=1e-6)
