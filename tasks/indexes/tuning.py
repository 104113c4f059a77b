"""Tuning: the quickest search setting whose recall@k on held-out queries is surely at the target."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np

from indexmill.tasks.indexes.searcher import Searcher
from indexmill.tasks.measures.neighbours import overlap_at

CONFIDENCE = 1.645  # standard errors: a one-sided bound of 95 %
DEPTHS = (30, 20, 12, 8, 6, 5, 4, 3, 2)  # candidates re-ranked, in multiples of k
PRECISION = 1.06  # a width is found to within so much
STEP = 1.15  # by which a width grows while fewer candidates are tried


@dataclass(frozen=True)
class Setting:
    """What `Searcher.widen` takes; None where the family has no such thing."""

    nprobe: int | None = None
    ef_search: int | None = None
    candidates: int | None = None


@dataclass(frozen=True)
class Trial:
    """One setting measured: mean recall@k, its lower bound, CPU seconds a query in batches."""

    setting: Setting
    recall: float
    bound: float
    cpu_seconds: float


@dataclass(frozen=True)
class Tuned:
    """The trial chosen. met: its bound is at the target; otherwise it is the nearest that was found. spent: CPU seconds of tuning."""

    target: float
    met: bool
    chosen: Trial
    trials: int
    spent: float

    def __str__(self) -> str:
        surely = f"recall {self.chosen.recall:.4f}, surely {self.chosen.bound:.4f}, {self.chosen.cpu_seconds * 1e6:.0f} µs a query"
        if self.met:
            return f"recall {self.target} is met with {self.chosen.setting}: {surely}"
        return f"recall {self.target} cannot be met; the nearest is {self.chosen.setting}: {surely}"


def tune(searcher: Searcher, queries: np.ndarray, exact: np.ndarray, target: float, *, k: int = 10, batch: int = 256) -> Tuned:
    """The quickest setting of the searcher whose lower bound of recall@k meets the target; the searcher is left set so.

    queries float32 (n, dim) are held out of the index; exact int64 (n, >= k) are their true neighbours. The width (nprobe or efSearch) is
    bisected with the most candidates first; fewer candidates then need at least that width, and are tried while they are quicker.
    """
    trials = Trials(searcher, queries, exact, k, batch)
    depths = [k * depth for depth in DEPTHS] if searcher.stores else [None]
    width = _bisected(trials, target, depths[0])
    for candidates in depths[1:]:
        width = _widened(trials, target, candidates, width)
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
    return float(recalls.mean() - CONFIDENCE * recalls.std(ddof=1) / math.sqrt(len(recalls)))


@dataclass
class Trials:
    """Settings measured on one searcher, each once."""

    searcher: Searcher
    queries: np.ndarray
    exact: np.ndarray
    k: int
    batch: int
    done: dict[Setting, Trial] = field(default_factory=dict)
    started: float = field(default_factory=time.process_time)

    def __call__(self, width: int, candidates: int | None) -> Trial:
        """Measure recall and CPU time of this width and so many candidates."""
        dial, _ = self.searcher.width
        widths = {dial: width} if dial else {}
        setting = Setting(**widths, candidates=candidates)
        if setting not in self.done:
            self.searcher.widen(nprobe=setting.nprobe, ef_search=setting.ef_search, candidates=candidates)
            start = time.process_time()
            parts = [self.searcher.search(self.queries[i : i + self.batch], self.k)[1] for i in range(0, len(self.queries), self.batch)]
            seconds = (time.process_time() - start) / len(self.queries)
            recalls = overlap_at(np.concatenate(parts), self.exact, self.k)
            self.done[setting] = Trial(setting, float(recalls.mean()), lower_bound(recalls), seconds)
        return self.done[setting]

    def quickest(self, target: float) -> Trial | None:
        """The quickest trial that meets the target."""
        return min((trial for trial in self.done.values() if trial.bound >= target), key=lambda trial: trial.cpu_seconds, default=None)

    def tuned(self, target: float) -> Tuned:
        """The end: the quickest that meets the target, or the one of the highest bound, to which the searcher is set."""
        met = self.quickest(target)
        chosen = met or max(self.done.values(), key=lambda trial: trial.bound)
        setting = chosen.setting
        self.searcher.widen(nprobe=setting.nprobe, ef_search=setting.ef_search, candidates=setting.candidates)
        return Tuned(target, met is not None, chosen, len(self.done), time.process_time() - self.started)


def _bisected(trials: Trials, target: float, candidates: int | None) -> int:
    """The least width that meets the target, found by doubling and then by bisection on a log scale; the widest if none does."""
    dial, widest = trials.searcher.width
    if not dial:
        trials(1, candidates)
        return 1
    low, high = 1, min(8 if dial == "nprobe" else 2 * trials.k, widest)
    while trials(high, candidates).bound < target:
        if high == widest:
            return widest
        low, high = high, min(2 * high, widest)
    while high > low + 1 and high / low > PRECISION:
        middle = min(max(round(math.sqrt(low * high)), low + 1), high - 1)
        low, high = (low, middle) if trials(middle, candidates).bound >= target else (middle, high)
    return high


def _widened(trials: Trials, target: float, candidates: int | None, width: int) -> int:
    """The least width at or above `width` that meets the target, by small steps, given up where it is no quicker than what is known."""
    _, widest = trials.searcher.width
    while (trial := trials(width, candidates)).bound < target:
        best = trials.quickest(target)
        if width == widest or best is None or trial.cpu_seconds >= best.cpu_seconds:
            break
        width = min(max(width + 1, round(width * STEP)), widest)
    return width
