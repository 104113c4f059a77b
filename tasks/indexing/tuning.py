"""Tune search parameters: find the fastest ones whose recall@k on held-out queries reaches a target with 95 %
confidence.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.neighbors import ann_recall_at

Z_95_ONE_SIDED = 1.645  # standard errors of a one-sided 95 % bound
CANDIDATE_MULTIPLES = (30, 20, 12, 8, 6, 5, 4, 3, 2)  # re-ranking candidates in multiples of k
VALUE_TOLERANCE = 1.06  # bisection stops at this ratio
VALUE_STEP = 1.15  # the factor by which nprobe or efSearch grows while fewer candidates are tried


@dataclass(frozen=True)
class SearchTrial:
    """One measurement: mean recall@k, its lower bound, and CPU seconds per query in batches."""

    params: SearchParams
    recall: float
    recall_lower_bound: float
    cpu_seconds_per_query: float


@dataclass(frozen=True)
class TuningResult:
    """The chosen trial. met: its lower bound reaches the target; otherwise it is the closest one that was found."""

    target: float
    met: bool
    chosen: SearchTrial
    trials: int
    tuning_cpu_seconds: float

    def __str__(self) -> str:
        chosen = self.chosen
        measured = (
            f"recall {chosen.recall:.4f}, at least {chosen.recall_lower_bound:.4f} with 95 % confidence, "
            f"{chosen.cpu_seconds_per_query * 1e6:.0f} µs per query"
        )
        if self.met:
            return f"{chosen.params} reaches recall {self.target}: {measured}"
        return f"recall {self.target} cannot be reached; the closest is {chosen.params}: {measured}"


def tune_search(
    searcher: Searcher, queries: np.ndarray, exact: np.ndarray, target: float, *, k: int = 10, batch: int = 256
) -> TuningResult:
    """Find the fastest search parameters whose lower bound of recall@k reaches the target, and set them.

    nprobe or efSearch is bisected with the most re-ranking candidates first. Fewer candidates need at least that value,
    and are tried as long as they are faster.

    Args:
        searcher: the index, which is left with the chosen parameters.
        queries: float32 (n, dim), none of them in the index.
        exact: ids of their exact neighbors, int64 (n, >= k).
        target: the recall@k to reach.
        k: the cutoff.
        batch: the number of queries per search.
    """
    trials = TrialRunner(searcher, queries, exact, k, batch)
    candidate_counts = [k * multiple for multiple in CANDIDATE_MULTIPLES] if searcher.stores else [None]
    value = _bisect_search_param(trials, target, candidate_counts[0])
    for rerank_candidates in candidate_counts[1:]:
        value = _raise_search_param(trials, target, rerank_candidates, value)
    return trials.finish(target)


def lower_bound(recalls: np.ndarray) -> float:
    """Compute the one-sided 95 % lower bound of the mean recall.

    The mean minus 1.645 standard errors (normal approximation). If all recalls are 1, that bound would be 1, so
    0.05^(1/n) is taken: a larger probability of a miss would have shown in n queries.

    Args:
        recalls: float (n,), one per query, drawn independently.
    """
    if len(recalls) < 2:
        return 0.0
    if recalls.min() == 1:
        return float(0.05 ** (1 / len(recalls)))
    return float(recalls.mean() - Z_95_ONE_SIDED * recalls.std(ddof=1) / math.sqrt(len(recalls)))


@dataclass
class TrialRunner:
    """Measurements on one searcher; none is repeated."""

    searcher: Searcher
    queries: np.ndarray
    exact: np.ndarray
    k: int
    batch: int
    measured: dict[SearchParams, SearchTrial] = field(default_factory=dict)
    cpu_started: float = field(default_factory=time.process_time)

    def measure(self, value: int, rerank_candidates: int | None) -> SearchTrial:
        """Measure recall and CPU time with this nprobe or efSearch and this number of re-ranking candidates."""
        values = {"nprobe": None, "ef_search": None, "rerank_candidates": rerank_candidates}
        if self.searcher.search_param:
            values[self.searcher.search_param] = value
        params = self.searcher.params.model_copy(update=values)
        if params not in self.measured:
            self.searcher.set_search_params(params)
            start = time.process_time()
            parts = [self.searcher.search(self.queries[i : i + self.batch], self.k)[1] for i in range(0, len(self.queries), self.batch)]
            seconds = (time.process_time() - start) / len(self.queries)
            recalls = ann_recall_at(np.concatenate(parts), self.exact, self.k)
            self.measured[params] = SearchTrial(params, float(recalls.mean()), lower_bound(recalls), seconds)
        return self.measured[params]

    def find_fastest(self, target: float) -> SearchTrial | None:
        """Return the fastest trial that reaches the target; None if no trial does."""
        return min(
            (trial for trial in self.measured.values() if trial.recall_lower_bound >= target),
            key=lambda trial: trial.cpu_seconds_per_query,
            default=None,
        )

    def finish(self, target: float) -> TuningResult:
        """Choose the fastest trial that reaches the target, or the one with the highest lower bound, and set its
        parameters.
        """
        fastest = self.find_fastest(target)
        chosen = fastest or max(self.measured.values(), key=lambda trial: trial.recall_lower_bound)
        self.searcher.set_search_params(chosen.params)
        return TuningResult(target, fastest is not None, chosen, len(self.measured), time.process_time() - self.cpu_started)


def _bisect_search_param(trials: TrialRunner, target: float, rerank_candidates: int | None) -> int:
    """Find the smallest value that reaches the target, by doubling and then by bisection on a log scale.

    The maximum if none does.
    """
    search_param, maximum = trials.searcher.search_param, trials.searcher.search_param_max
    if not search_param:
        trials.measure(1, rerank_candidates)
        return 1
    low, high = 1, min(8 if search_param == "nprobe" else 2 * trials.k, maximum)
    while trials.measure(high, rerank_candidates).recall_lower_bound < target:
        if high == maximum:
            return maximum
        low, high = high, min(2 * high, maximum)
    while high > low + 1 and high / low > VALUE_TOLERANCE:
        middle = min(max(round(math.sqrt(low * high)), low + 1), high - 1)
        is_enough = trials.measure(middle, rerank_candidates).recall_lower_bound >= target
        low, high = (low, middle) if is_enough else (middle, high)
    return high


def _raise_search_param(trials: TrialRunner, target: float, rerank_candidates: int | None, value: int) -> int:
    """Raise the value in small steps until it reaches the target.

    Stop when it is no faster than the fastest trial so far.
    """
    maximum = trials.searcher.search_param_max
    while (trial := trials.measure(value, rerank_candidates)).recall_lower_bound < target:
        fastest = trials.find_fastest(target)
        if value == maximum or fastest is None or trial.cpu_seconds_per_query >= fastest.cpu_seconds_per_query:
            break
        value = min(max(value + 1, round(value * VALUE_STEP)), maximum)
    return value
