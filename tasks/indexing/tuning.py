"""Tuning: the quickest search setting whose recall@k on held-out queries is surely at the target."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.neighbors import ann_recall_at

Z_95_ONE_SIDED = 1.645  # standard errors: a one-sided bound of 95 %
CANDIDATE_MULTIPLES = (30, 20, 12, 8, 6, 5, 4, 3, 2)  # candidates re-ranked, in multiples of k
WIDTH_TOLERANCE = 1.06  # a width is found to within so much
WIDTH_STEP = 1.15  # by which a width grows while fewer candidates are tried


@dataclass(frozen=True)
class SearchTrial:
    """One setting measured: mean recall@k, its lower bound, CPU seconds a query in batches."""

    params: SearchParams
    recall: float
    recall_lower_bound: float
    cpu_seconds_per_query: float


@dataclass(frozen=True)
class TuningResult:
    """The trial chosen. met: its bound is at the target; otherwise it is the nearest that was found. spent: CPU seconds of tuning."""

    target: float
    met: bool
    chosen: SearchTrial
    trials: int
    tuning_cpu_seconds: float

    def __str__(self) -> str:
        surely = f"recall {self.chosen.recall:.4f}, surely {self.chosen.recall_lower_bound:.4f}, {self.chosen.cpu_seconds_per_query * 1e6:.0f} µs a query"
        if self.met:
            return f"recall {self.target} is met with {self.chosen.params}: {surely}"
        return f"recall {self.target} cannot be met; the nearest is {self.chosen.params}: {surely}"


def tune(searcher: Searcher, queries: np.ndarray, exact: np.ndarray, target: float, *, k: int = 10, batch: int = 256) -> TuningResult:
    """The quickest setting of the searcher whose lower bound of recall@k meets the target; the searcher is left set so.

    queries float32 (n, dim) are held out of the index; exact int64 (n, >= k) are their true neighbours. The width (nprobe or efSearch) is
    bisected with the most candidates first; fewer candidates then need at least that width, and are tried while they are quicker.
    """
    trials = TrialRunner(searcher, queries, exact, k, batch)
    depths = [k * depth for depth in CANDIDATE_MULTIPLES] if searcher.stores else [None]
    width = _bisect_width(trials, target, depths[0])
    for rerank_candidates in depths[1:]:
        width = _raise_width(trials, target, rerank_candidates, width)
    return trials.tuned(target)


def lower_bound(recalls: np.ndarray) -> float:
    """What the mean of recalls (float (n,), one a query, drawn independently) surely is, at 95 %.

    Mean less 1.645 standard errors, by the normal approximation. Where all are 1 that says nothing, and 0.05^(1/n) is taken: a chance of
    failing that is larger would have shown itself in n queries.
    """
    if len(recalls) < 2:
        return 0.0
    if recalls.min() == 1:
        return float(0.05 ** (1 / len(recalls)))
    return float(recalls.mean() - Z_95_ONE_SIDED * recalls.std(ddof=1) / math.sqrt(len(recalls)))


@dataclass
class TrialRunner:
    """Settings measured on one searcher, each once."""

    searcher: Searcher
    queries: np.ndarray
    exact: np.ndarray
    k: int
    batch: int
    measured: dict[SearchParams, SearchTrial] = field(default_factory=dict)
    cpu_started: float = field(default_factory=time.process_time)

    def __call__(self, width: int, rerank_candidates: int | None) -> SearchTrial:
        """Measure recall and CPU time of this width and so many candidates."""
        search_param, _ = self.searcher.width
        widths = {search_param: width} if search_param else {}
        params = SearchParams(**widths, rerank_candidates=rerank_candidates)
        if params not in self.measured:
            self.searcher.set_search_params(nprobe=params.nprobe, ef_search=params.ef_search, rerank_candidates=rerank_candidates)
            start = time.process_time()
            parts = [self.searcher.search(self.queries[i : i + self.batch], self.k)[1] for i in range(0, len(self.queries), self.batch)]
            seconds = (time.process_time() - start) / len(self.queries)
            recalls = ann_recall_at(np.concatenate(parts), self.exact, self.k)
            self.measured[params] = SearchTrial(params, float(recalls.mean()), lower_bound(recalls), seconds)
        return self.measured[params]

    def find_fastest(self, target: float) -> SearchTrial | None:
        """The quickest trial that meets the target."""
        return min(
            (trial for trial in self.measured.values() if trial.recall_lower_bound >= target),
            key=lambda trial: trial.cpu_seconds_per_query,
            default=None,
        )

    def tuned(self, target: float) -> TuningResult:
        """The end: the quickest that meets the target, or the one of the highest bound, to which the searcher is set."""
        met = self.find_fastest(target)
        chosen = met or max(self.measured.values(), key=lambda trial: trial.recall_lower_bound)
        params = chosen.params
        self.searcher.set_search_params(nprobe=params.nprobe, ef_search=params.ef_search, rerank_candidates=params.rerank_candidates)
        return TuningResult(target, met is not None, chosen, len(self.measured), time.process_time() - self.cpu_started)


def _bisect_width(trials: TrialRunner, target: float, rerank_candidates: int | None) -> int:
    """The least width that meets the target, found by doubling and then by bisection on a log scale; the widest if none does."""
    search_param, widest = trials.searcher.width
    if not search_param:
        trials(1, rerank_candidates)
        return 1
    low, high = 1, min(8 if search_param == "nprobe" else 2 * trials.k, widest)
    while trials(high, rerank_candidates).recall_lower_bound < target:
        if high == widest:
            return widest
        low, high = high, min(2 * high, widest)
    while high > low + 1 and high / low > WIDTH_TOLERANCE:
        middle = min(max(round(math.sqrt(low * high)), low + 1), high - 1)
        low, high = (low, middle) if trials(middle, rerank_candidates).recall_lower_bound >= target else (middle, high)
    return high


def _raise_width(trials: TrialRunner, target: float, rerank_candidates: int | None, width: int) -> int:
    """The least width at or above `width` that meets the target, by small steps, given up where it is no quicker than what is known."""
    _, widest = trials.searcher.width
    while (trial := trials(width, rerank_candidates)).recall_lower_bound < target:
        best = trials.find_fastest(target)
        if width == widest or best is None or trial.cpu_seconds_per_query >= best.cpu_seconds_per_query:
            break
        width = min(max(width + 1, round(width * WIDTH_STEP)), widest)
    return width
