"""Tables and trec_eval files of an evaluation agree with its metrics."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from ir_measures import AP

from indexmill.storage.root import Root
from indexmill.tasks.evaluation.relevance import aggregate_metrics
from indexmill.tasks.evaluation.retrieval import compute_ann_metrics
from indexmill.tasks.evaluation.tables import write_per_label, write_per_query
from indexmill.tasks.evaluation.trec import write_qrels, write_run
from tests.evaluation.embedding_sets import write_pairs
from tests.evaluation.small_index import METRIC, SmallIndex


def test_metrics_are_the_means_of_the_tables(small: SmallIndex, tmp_path: Path) -> None:
    """per_query.parquet averages to the metrics, and so does per_label.parquet weighted by queries; not judged is null, not 0."""
    ann_metrics = compute_ann_metrics(small.run, small.compute_ground_truth(), [1, 10], METRIC)
    metrics, intervals = aggregate_metrics(small.relevance, ann_metrics)
    write_per_query(tmp_path / "q.parquet", small.run, small.judge, small.relevance, ann_metrics)
    label_rows = write_per_label(tmp_path / "l.parquet", small.judge, small.relevance)
    query_rows = pq.read_table(tmp_path / "q.parquet").to_pylist()
    unlabeled = [row for row in query_rows if row["label"] is None]
    assert unlabeled
    assert all(row["map"] is None and row["relevant"] is None and row["ann_recall_at_10"] is not None for row in unlabeled)
    assert [row["label"] for row in query_rows] == small.labels[60:]
    assert [row["neighbors"] for row in query_rows] == small.run.retrieved[:, :10].tolist()
    for name in ("map", "ndcg_at_5", "recall_at_10", "ann_recall_at_10"):
        values = [row[name] for row in query_rows if row[name] is not None]
        assert np.mean(values) == pytest.approx(metrics[name])
        assert intervals[name][0] <= metrics[name] <= intervals[name][1]
    weighted = sum(row["queries"] * row["map"] for row in label_rows) / sum(row["queries"] for row in label_rows)
    assert weighted == pytest.approx(metrics["map"])
    for row in label_rows:
        label_values = [query["map"] for query in query_rows if query["label"] == row["label"] and query["map"] is not None]
        assert min(label_values) <= row["map_low"] <= row["map"] <= row["map_high"] <= max(label_values)
    assert metrics["map_by_label"] == pytest.approx(np.mean([row["map"] for row in label_rows]))
    assert pq.read_table(tmp_path / "l.parquet").to_pylist() == label_rows


def test_run_and_qrels_give_trec_eval_the_same_map(small: SmallIndex, root: Root, tmp_path: Path) -> None:
    """ir_measures reads both files and computes our mAP at the depth of the run."""
    write_per_query(tmp_path / "q.parquet", small.run, small.judge, small.relevance, {})
    write_run(tmp_path / "run.trec", small.run, higher_is_better=True)
    write_qrels(tmp_path / "qrels.trec", root, small.embeddings, tmp_path / "q.parquet", None, None)
    run, qrels = ir_measures.read_trec_run(str(tmp_path / "run.trec")), list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec")))
    assert len(qrels) == small.relevance.relevant.sum()
    trec_map = ir_measures.calc_aggregate([AP], qrels, run)[AP]
    assert trec_map == pytest.approx(small.relevance.metrics["map"].mean(), abs=1e-6)


def test_qrels_by_pairs_hold_the_rounded_scores(small: SmallIndex, root: Root, tmp_path: Path) -> None:
    """A pair counts in both directions; one below the threshold is left out."""
    pairs = write_pairs(root, [("f", 4.6, 61, 3), ("f", 3.0, 5, 61), ("f", 2.0, 61, 6), ("f", 5.0, 1, 2)])
    relevance = small.judge.judge_by_pairs(small.run, (1,), pairs, 3)
    write_per_query(tmp_path / "q.parquet", small.run, small.judge, relevance, {})
    write_qrels(tmp_path / "qrels.trec", root, small.embeddings, tmp_path / "q.parquet", pairs, 3)
    assert (tmp_path / "qrels.trec").read_text().splitlines() == ["61 0 3 5", "61 0 5 3"]
