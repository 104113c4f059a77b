"""Queries of one's own against ir_measures, query by query, on rankings with ties; and the files that other tools read."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, Judged, P, R, Rprec, Success, nDCG

from indexmill.storage.records import EncodedQueries, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.own_queries import (
    find_tied_ids,
    load_names,
    load_qrels,
    load_query_vectors,
    order_ties,
    quote_spaces,
    write_named_qrels,
    write_named_run,
)
from indexmill.tasks.evaluation.relevance import aggregate_metrics, judge_by_judgements
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.metrics.qrels import Qrels
from tests.evaluation.embedding_sets import write_embeddings
from tests.evaluation.small_index import make_unit_vectors

KS = (1, 3, 10)
CUT_MEASURES = [(P, "precision"), (R, "recall"), (AP, "map"), (nDCG, "ndcg"), (Success, "hit_rate")]
TREC_NAMES = {AP: "map", RR: "mrr", Rprec: "r_precision"} | {measure @ k: f"{name}_at_{k}" for k in KS for measure, name in CUT_MEASURES}
OTHER_NAMES = {measure @ k: f"{name}_at_{k}" for k in KS for measure, name in [(RR, "mrr"), (Judged, "judged")]}
QUERIES, DEPTH = 12, 15


def make_run(seed: int) -> tuple[RetrievalRun, dict[int, str], list[tuple[int, int, int]]]:
    """A run of tied scores with empty ranks, the items' names in another order than their ids, and graded judgements.

    Some judgements are of items that were not retrieved or do not exist; some queries have no relevant item, or no judgement.
    """
    random = np.random.default_rng(seed)
    ids = np.sort(random.permutation(1000)[:40]) + 1
    names = {int(item): f"{name:03d}" for item, name in zip(ids, random.permutation(1000)[:40], strict=True)}
    scores = np.sort(random.integers(0, 6, (QUERIES, DEPTH)).astype(np.float32), axis=1)[:, ::-1] / 8
    retrieved = np.array([random.permutation(ids)[:DEPTH] for _ in range(QUERIES)])
    retrieved[0, 4:], scores[0, 4:] = -1, -np.inf
    judged = [(row, int(item), int(random.integers(-1, 4))) for row in range(1, QUERIES - 1) for item in random.permutation(ids)[:9]]
    judged += [(0, int(ids[0]), 0), (1, 5000, 2)]
    run = RetrievalRun(np.arange(QUERIES), np.zeros((QUERIES, 2), np.float32), np.ascontiguousarray(scores), retrieved)
    return run, names | {5000: "gone"}, judged


def make_qrels(judged: list[tuple[int, int, int]]) -> Qrels:
    rows, items, grades = (np.array(column) for column in zip(*judged, strict=True))
    return Qrels(QUERIES, rows, items, np.maximum(grades, 0))


def compute(run: RetrievalRun, qrels: Qrels) -> dict[tuple[str, str], float]:
    relevance = judge_by_judgements(run, KS, qrels)
    rows = np.flatnonzero(relevance.judged)
    return {(f"q{row}", name): float(value) for name, column in relevance.metrics.items() for row, value in zip(rows, column, strict=True)}


@pytest.mark.parametrize("seed", range(6))
def test_every_measure_is_that_of_trec_eval_with_ties(seed: int) -> None:
    """trec_eval gets the tied scores themselves, and the raw judgements with negative grades and unknown items."""
    run, names, judged = make_run(seed)
    scores = {
        f"q{row}": {names[i]: float(s) for i, s in zip(run.retrieved[row].tolist(), run.scores[row], strict=True) if i >= 0}
        for row in range(QUERIES)
    }
    qrels: dict[str, dict[str, int]] = {}
    for row, item, grade in judged:
        qrels.setdefault(f"q{row}", {})[names[item]] = grade
    expected = {
        (value.query_id, TREC_NAMES[value.measure]): value.value for value in ir_measures.iter_calc(list(TREC_NAMES), qrels, scores)
    }
    computed = compute(order_ties(run, names), make_qrels(judged))
    assert len(expected) == len(TREC_NAMES) * (QUERIES - 1)
    assert {key: computed[key] for key in expected} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("higher_is_better", [True, False], ids=["cosine", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_every_tool_reads_our_order_from_the_files(tmp_path: Path, root: Root, seed: int, higher_is_better: bool) -> None:
    """Also the measures that ir_measures does not take from trec_eval, and whose ties it orders the other way round."""
    run, names, judged = make_run(seed)
    run = order_ties(run, names)
    if not higher_is_better:
        run = RetrievalRun(run.query_ids, run.query_vectors, -run.scores, run.retrieved)
    query_names = {row: f"q{row}" for row in range(QUERIES)}
    rows = [{"query_id": row, "item_id": item, "item": names[item], "grade": max(grade, 0)} for row, item, grade in judged]
    path = root.path / "judgements.parquet"
    pl.DataFrame(rows).write_parquet(path)
    write_named_run(tmp_path / "run.trec", run, query_names, names, higher_is_better=higher_is_better)
    write_named_qrels(tmp_path / "qrels.trec", root, root.make_ref(path), query_names)
    measured = ir_measures.iter_calc(
        [*TREC_NAMES, *OTHER_NAMES],
        list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.trec"))),
        list(ir_measures.read_trec_run(str(tmp_path / "run.trec"))),
    )
    expected = {(value.query_id, (TREC_NAMES | OTHER_NAMES)[value.measure]): value.value for value in measured}
    computed = compute(run, make_qrels(judged))
    # A query without a relevant item has no RR@k in ir_measures' MS MARCO code; here it is 0, as in trec_eval's RR.
    missing = {key: value for key, value in computed.items() if key not in expected}
    assert {name.split("_at_")[0] for _, name in missing} <= {"mrr"}
    assert set(missing.values()) <= {0.0}
    assert {key: computed[key] for key in expected} == pytest.approx(expected, abs=1e-9)


def test_judged_queries_without_a_relevant_item_count_as_zero() -> None:
    """As in trec_eval; a query without any judgement is not in the mean."""
    run = RetrievalRun(np.arange(3), np.zeros((3, 2), np.float32), np.zeros((3, 1), np.float32), np.array([[7], [7], [7]]))
    relevance = judge_by_judgements(run, (1,), Qrels(3, np.array([0, 1]), np.array([7, 7]), np.array([1, 0])))
    metrics, _ = aggregate_metrics(relevance, {})
    assert relevance.judged.tolist() == [True, True, False]
    assert (metrics["map"], metrics["ndcg_at_1"], metrics["recall_at_1"], metrics["judged_at_1"]) == (0.5, 0.5, 0.5, 1.0)


def test_without_judgements_nothing_is_relevant() -> None:
    """A query log alone has no metric of relevance."""
    run = RetrievalRun(np.arange(2), np.zeros((2, 2), np.float32), np.zeros((2, 1), np.float32), np.array([[7], [7]]))
    relevance = judge_by_judgements(run, (1,), Qrels(2, np.empty(0, np.int64), np.empty(0, np.int64)))
    assert (relevance.source, relevance.metrics, relevance.judged.any()) == (None, {}, False)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_ordering_ties_changes_the_order_of_equal_scores_only(seed: int) -> None:
    """The items of each score stay the same, and within a score the names descend."""
    run, names, _ = make_run(seed)
    ordered = order_ties(run, names)
    for row in range(QUERIES):
        for score in np.unique(run.scores[row]):
            before, after = (set(ids[row][run.scores[row] == score].tolist()) for ids in (run.retrieved, ordered.retrieved))
            assert before == after
        tied = [
            (names[int(item)], score) for item, score in zip(ordered.retrieved[row], ordered.scores[row], strict=True) if int(item) >= 0
        ]
        assert tied == sorted(sorted(tied, reverse=True), key=lambda pair: -pair[1])
    assert set(find_tied_ids(run).tolist()) <= set(names)


def test_white_space_in_keys_does_not_split_a_line() -> None:
    """Lines are split at white space, whichever it is."""
    assert quote_spaces("a b\u00a0c.jpg") == "a%20b%C2%A0c.jpg"
    assert quote_spaces("50%/ä") == "50%/ä"


def make_query_set(root: Root, judged: list[int], leaks: list[int] = []) -> EncodedQueries:  # noqa: B006 (only read)
    """Queries 1 to 20, some of them judged."""
    vectors = make_unit_vectors(np.random.default_rng(1), 20)
    embeddings = write_embeddings(root, vectors, ["query"] * 20, [None] * 20, digest="q")
    items = pl.read_parquet(root.file(embeddings.items)).with_columns(pl.col("item_id").is_in(leaks).alias("leak"))
    items.write_parquet(root.file(embeddings.items))
    path = root.path / "judgements.parquet"
    rows = [{"query_id": query, "item_id": 7, "item": "k7", "grade": 1} for query in judged]
    pl.DataFrame(rows, schema={"query_id": pl.Int64, "item_id": pl.Int64, "item": pl.String, "grade": pl.Int32}).write_parquet(path)
    ref: FileRef = root.make_ref(path)
    return EncodedQueries(name="", embeddings=embeddings, image_root=None, judgements=ref, counts={})


def test_a_sample_takes_judged_queries_first(root: Root) -> None:
    """Of a long query log, the few judged queries are always measured."""
    query_set = make_query_set(root, judged=[2, 11, 19])
    ids, vectors = load_query_vectors(root, query_set, max_queries=5, include_leaks=True, seed=0)
    assert {2, 11, 19} < set(ids.tolist())
    assert (len(ids), vectors.shape) == (5, (5, 16))
    everything, all_vectors = load_query_vectors(root, query_set, max_queries=100, include_leaks=True, seed=0)
    assert everything.tolist() == list(range(1, 21))
    assert np.array_equal(vectors, all_vectors[ids - 1])
    assert load_names(root, query_set.embeddings, np.array([3, 3, 5])) == {3: "k3", 5: "k5"}


def test_leaking_queries_are_left_out_when_asked(root: Root) -> None:
    """They were marked by the stage `queries`."""
    query_set = make_query_set(root, judged=[1], leaks=[1, 4])
    ids, vectors = load_query_vectors(root, query_set, max_queries=100, include_leaks=False, seed=0)
    assert ids.tolist() == [item for item in range(1, 21) if item not in (1, 4)]
    assert len(vectors) == 18


def test_judgements_are_loaded_for_the_measured_queries(root: Root) -> None:
    """Those of queries outside the sample are left out."""
    query_set = make_query_set(root, judged=[2, 11, 19])
    qrels = load_qrels(root, query_set.judgements, np.array([1, 11, 20]))
    assert qrels.judged.tolist() == [0, 1, 0]
    assert qrels.look_up_gains(np.array([[7], [7], [7]])).tolist() == [[0], [1], [0]]
