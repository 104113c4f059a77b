"""Results: rates, agreement with the tutorial loop, and the ratios of the targets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.encoding.variants import Measured

TUTORIAL, OURS, OPENED, DEFAULTS, PEER = "tutorial loop", "Indexmill", "Indexmill, read and prepare", "library defaults", "clip-retrieval"
FORWARD = "pure forward, "
# Minimum ratio of Indexmill's rate to the rate of that variant.
TARGETS = ((FORWARD, 0.9), (TUTORIAL, 5.0), (PEER, 5.0), (DEFAULTS, 2.5))


@dataclass
class Row:
    """One variant of one model. rates: items per second, one per repeat. cosine: mean, with the vectors of the tutorial loop.

    own_nearest: share of items whose nearest vector of the tutorial loop is their own; needed for random weights, whose vectors are alike.
    """

    model: str
    variant: str
    items: int = 0
    rates: list[float] = field(default_factory=list)
    cosine: float | None = None
    own_nearest: float | None = None
    remark: str = ""
    vectors: np.ndarray | None = None

    @property
    def rate(self) -> float:
        """Median items per second."""
        return statistics.median(self.rates)

    def add(self, measured: Measured) -> None:
        """Add one repeat."""
        self.items, self.vectors, self.remark = measured.items, measured.vectors, measured.remark
        self.rates.append(measured.items / measured.seconds)

    def compare(self, reference: np.ndarray) -> None:
        """Compare with the tutorial loop's vectors, float32 (n, dim), item by item."""
        if self.vectors is not None:
            self.cosine, self.own_nearest = compute_agreement(self.vectors, reference)

    def as_json(self) -> dict[str, Any]:
        """Return all fields but the vectors."""
        columns = {name: value for name, value in vars(self).items() if name != "vectors"}
        return {**columns, "rate": self.rate}


@dataclass(frozen=True)
class Verdict:
    """A target of one model: Indexmill's rate divided by the other variant's, the median over the repeats."""

    model: str
    other: str
    target: float
    ratios: list[float]

    @property
    def ratio(self) -> float:
        """Median ratio."""
        return statistics.median(self.ratios)

    @property
    def word(self) -> str:
        """`met` or `missed`."""
        return "met" if self.ratio >= self.target else "missed"

    def as_json(self) -> dict[str, Any]:
        """Return the fields, the ratio and the verdict."""
        return {**vars(self), "ratio": self.ratio, "verdict": self.word}


@dataclass(frozen=True)
class Limit:
    """The fraction of the fastest pure forward rate that reading and preparing images leaves possible.

    share: on a GPU the ratio of the two rates, at most 1; on a CPU both use the same cores, and their times add up.
    """

    model: str
    forward: float
    opened: float
    share: float

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        return vars(self)


def compute_limits(rows: list[Row], *, same_cores: bool) -> list[Limit]:
    """Compute the limit of every image model."""
    results = []
    for opened in (row for row in rows if row.variant == OPENED):
        forward = max(row.rate for row in rows if row.model == opened.model and row.variant.startswith(FORWARD))
        share = 1 / (1 + forward / opened.rate) if same_cores else min(1.0, opened.rate / forward)
        results.append(Limit(opened.model, forward, opened.rate, share))
    return results


def compute_agreement(vectors: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Return the mean cosine of matching rows, and the share of rows whose nearest reference row is the matching one."""
    shared = min(len(vectors), len(reference))
    ours, reference_vectors = _unit(vectors[:shared]), _unit(reference[:shared])
    mean = reference_vectors.mean(axis=0)
    similarity = _unit(ours - mean) @ _unit(reference_vectors - mean).T
    return float((ours * reference_vectors).sum(axis=1).mean()), float((similarity.argmax(axis=1) == np.arange(shared)).mean())


def compare_targets(rows: list[Row]) -> list[Verdict]:
    """Compare with every target whose variant was measured. Of the pure forward variants, the fastest counts."""
    results = []
    for model in dict.fromkeys(row.model for row in rows):
        by_variant = {row.variant: row for row in rows if row.model == model}
        ours = by_variant[OURS]
        for name, target in TARGETS:
            if candidates := [row for row in by_variant.values() if row.variant.startswith(name)]:
                other = max(candidates, key=lambda row: row.rate)
                ratios = [left / right for left, right in zip(ours.rates, other.rates, strict=True)]
                results.append(Verdict(model, other.variant, target, ratios))
    return results


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
