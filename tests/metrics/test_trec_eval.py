"""Every metric compared with trec_eval (ir_measures over pytrec_eval), on random rankings with ties and graded gains."""

from __future__ import annotations

import ir_measures
import pytest
from ir_measures import AP, RR, P, R, Rprec, Success, nDCG
from runs import KS, compute_metrics, make_run

NAMES = {AP: "map", RR: "mrr", Rprec: "r_precision"} | {
    measure @ k: f"{name}_at_{k}"
    for k in KS
    for measure, name in [(P, "precision"), (R, "recall"), (AP, "map"), (nDCG, "ndcg"), (Success, "hit_rate")]
}


def name_document(item: int) -> str:
    """Name an item so that trec_eval, which orders ties by descending document name, orders them by ascending id."""
    return f"{99_999 - item:05d}"


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_agrees_with_trec_eval(seed: int) -> None:
    """With ties and graded gains; pytrec_eval reads the tied scores themselves, not our order of them."""
    run = make_run(seed)
    scores = {f"q{q}": {name_document(i): float(s) for i, s in zip(run.retrieved[q], run.scores[q], strict=True)} for q in range(20)}
    qrels = {f"q{q}": {name_document(i): int(g) for i, g in zip(run.ids, run.gains[q], strict=True) if g} for q in range(20)}
    expected = {(metric.query_id, NAMES[metric.measure]): metric.value for metric in ir_measures.iter_calc(list(NAMES), qrels, scores)}
    computed = {(f"q{q}", name): value for name, column in compute_metrics(run).items() for q, value in enumerate(column)}
    assert len(expected) == len(computed) == 20 * len(NAMES)
    assert computed == pytest.approx(expected, abs=1e-9)
