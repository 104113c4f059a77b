"""Every measure against trec_eval (ir_measures over pytrec_eval) and ranx, on random rankings with ties and graded gains."""

from __future__ import annotations

import ir_measures
import pytest
from ir_measures import AP, RR, P, R, Rprec, Success, nDCG
from runs import KS, a_run, ours

NAMES = {AP: "map", RR: "mrr", Rprec: "r_precision"} | {
    theirs @ k: f"{ours}_at_{k}"
    for k in KS
    for theirs, ours in [(P, "precision"), (R, "recall"), (AP, "map"), (nDCG, "ndcg"), (Success, "hit_rate")]
}


def name(item: int) -> str:
    """trec_eval puts equal scores in descending order of document names, so a small id gets a late name."""
    return f"{99_999 - item:05d}"


@pytest.mark.parametrize("seed", range(5))
def test_every_measure_is_trec_evals_ties_and_graded_gains_included(seed: int) -> None:
    """ir_measures over pytrec_eval reads the tied scores themselves, not our order of them."""
    ids, ranked, found, judged, gains = a_run(seed)
    run = {f"q{q}": {name(i): float(s) for i, s in zip(found[q], ranked[q], strict=True)} for q in range(20)}
    qrels = {f"q{q}": {name(i): int(g) for i, g in zip(ids, gains[q], strict=True) if g} for q in range(20)}
    theirs = {(metric.query_id, NAMES[metric.measure]): metric.value for metric in ir_measures.iter_calc(list(NAMES), qrels, run)}
    mine = {(f"q{q}", measure): value for measure, column in ours(found, judged).items() for q, value in enumerate(column)}
    assert len(theirs) == len(mine) == 20 * len(NAMES)
    assert mine == pytest.approx(theirs, abs=1e-9)
