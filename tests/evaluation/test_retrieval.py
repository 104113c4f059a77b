"""Rankings, exact neighbors and ANN metrics, compared with NumPy."""

from __future__ import annotations

import faiss
import numpy as np

from indexmill.storage.index_records import SearchParams
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.retrieval import RetrievalRun, choose_cutoffs, compute_ann_metrics, run_queries, summarize_ann_metrics
from indexmill.tasks.indexing.reranking import make_store
from indexmill.tasks.indexing.searcher import Searcher
from tests.evaluation.small_index import DIM, METRIC, SmallIndex, make_unit_vectors


def test_the_first_k_ranks_equal_a_top_k_search() -> None:
    """Coarse codes re-rank few candidates for a small k: the first three ranks are those of a top-3 search, and no item appears twice."""
    vectors, ids = make_unit_vectors(np.random.default_rng(0), 2000), np.arange(1, 2001)
    index = faiss.index_factory(DIM, "IVF4,PQ4x4", METRIC)
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    searcher = Searcher([index], "cosine", SearchParams(nprobe=4, rerank_candidates=3), stores=[make_store(ids, vectors, "cosine")])
    queries = make_unit_vectors(np.random.default_rng(1), 50)
    retrieved = run_queries(searcher, np.arange(50), queries, 3, 40).retrieved
    top_3, top_40 = (searcher.search(queries, k)[1] for k in (3, 40))
    assert retrieved[:, :3].tolist() == top_3.tolist()
    assert top_3.tolist() != top_40[:, :3].tolist()
    for ranking, deep_ranking in zip(retrieved.tolist(), top_40.tolist(), strict=True):
        assert len(set(ranking)) == 40
        assert [item for item in deep_ranking if item not in ranking[:3]][:37] == ranking[3:]


def test_ground_truth_is_exact_and_cached_for_the_same_queries_only(root: Root, small: SmallIndex) -> None:
    """It equals NumPy's ranking; the file is read again unless it is damaged; other queries or another database use another file."""
    exact = np.argsort(-(small.vectors[60:] @ small.vectors[:60].T), axis=1, kind="stable")[:, :10] + 1
    folder = root.path / "t"

    def read_ids() -> list[list[int]]:
        return list(small.compute_ground_truth(folder).ids.tolist())

    ground_truth = small.compute_ground_truth(folder)
    path = root.file(ground_truth.file)
    assert ground_truth.ids.tolist() == exact.tolist()
    written = dict(np.load(path))
    np.savez(path, **{**written, "ids": ground_truth.ids[:, ::-1]})
    assert read_ids() == exact[:, ::-1].tolist()  # read, not computed again
    path.write_bytes(path.read_bytes()[:-100])
    assert read_ids() == exact.tolist()
    other_database = small.compute_ground_truth(folder, indexed=small.embeddings.model_copy(update={"digest": "other"}))
    run = small.run
    fewer_queries = small.compute_ground_truth(
        folder, run=RetrievalRun(run.query_ids[:5], run.query_vectors[:5], run.scores[:5], run.retrieved[:5])
    )
    assert len({ground_truth.file.path, other_database.file.path, fewer_queries.file.path}) == 3


def test_ann_recall_counts_what_a_narrow_search_misses(small: SmallIndex) -> None:
    """Two lists of eight: recall equals a count of sets and is below 1; recall by distance is never lower."""
    ground_truth = small.compute_ground_truth()
    columns = compute_ann_metrics(small.run, ground_truth, choose_cutoffs((1, 5), 60), METRIC)
    rankings = zip(small.run.retrieved.tolist(), ground_truth.ids.tolist(), strict=True)
    by_hand = [len(set(retrieved[:5]) & set(exact[:5])) / 5 for retrieved, exact in rankings]
    assert columns["ann_recall_at_5"].tolist() == by_hand
    assert 0 < np.mean(by_hand) < 1
    assert (columns["ann_distance_recall_at_5"] >= columns["ann_recall_at_5"]).all()
    metrics = summarize_ann_metrics(columns)
    assert metrics["ann_share_below_half_at_10"] == np.mean(columns["ann_recall_at_10"] < 0.5)
    assert metrics["ann_distance_ratio_at_10"] >= 1
