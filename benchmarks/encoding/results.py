"""What was measured: rates, agreement with the library's loop, and the ratios that the targets ask for."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from encoding.variants import Measured

TUTORIAL, OURS, OPENED, DEFAULTS, PEER = "tutorial loop", "Indexmill", "Indexmill, read and prepare", "library defaults", "clip-retrieval"
FORWARD = "pure forward, "
# Of Indexmill's rate to that row's, at least.
TARGETS = ((FORWARD, 0.9), (TUTORIAL, 5.0), (PEER, 5.0), (DEFAULTS, 2.5))


@dataclass
class Row:
    """One variant of one model. rates: items a second, one a repeat. cosine: mean, to the vectors of the tutorial loop.

    own: share of items whose nearest vector of the tutorial loop is their own, which random weights, whose vectors are all alike, need.
    """

    model: str
    variant: str
    items: int = 0
    rates: list[float] = field(default_factory=list)
    cosine: float | None = None
    own: float | None = None
    remark: str = ""
    vectors: np.ndarray | None = None

    @property
    def rate(self) -> float:
        """Items a second, the median."""
        return statistics.median(self.rates)

    def add(self, measured: Measured) -> None:
        """One repeat."""
        self.items, self.vectors, self.remark = measured.items, measured.vectors, measured.remark
        self.rates.append(measured.items / measured.seconds)

    def compare(self, reference: np.ndarray) -> None:
        """Against float32 (n, dim) of the library's loop, item by item."""
        if self.vectors is not None:
            self.cosine, self.own = agreement(self.vectors, reference)

    def as_json(self) -> dict[str, Any]:
        """Without the vectors."""
        told = {name: value for name, value in vars(self).items() if name != "vectors"}
        return {**told, "rate": self.rate}


@dataclass(frozen=True)
class Verdict:
    """A target of one model: Indexmill's rate divided by the other row's, the median of the repeats' ratios."""

    model: str
    other: str
    target: float
    ratios: list[float]

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def word(self) -> str:
        """met or missed."""
        return "met" if self.ratio >= self.target else "missed"

    def as_json(self) -> dict[str, Any]:
        """With what follows from it."""
        return {**vars(self), "ratio": self.ratio, "verdict": self.word}


@dataclass(frozen=True)
class Limit:
    """What reading and preparing alone leaves possible of the fastest pure forward rate.

    share: where a GPU runs the model, the ratio of the two rates, at most 1; on a CPU both take the same cores, and their times add up.
    """

    model: str
    forward: float
    opened: float
    share: float

    def as_json(self) -> dict[str, Any]:
        """As it is."""
        return vars(self)


def limits(rows: list[Row], *, same_cores: bool) -> list[Limit]:
    """One for every image model."""
    found = []
    for opened in (row for row in rows if row.variant == OPENED):
        forward = max(row.rate for row in rows if row.model == opened.model and row.variant.startswith(FORWARD))
        share = 1 / (1 + forward / opened.rate) if same_cores else min(1.0, opened.rate / forward)
        found.append(Limit(opened.model, forward, opened.rate, share))
    return found


def agreement(vectors: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Mean cosine of rows with the same number, and the share of rows nearest to the reference row of the same number."""
    shared = min(len(vectors), len(reference))
    ours, theirs = _unit(vectors[:shared]), _unit(reference[:shared])
    middle = theirs.mean(axis=0)
    near = _unit(ours - middle) @ _unit(theirs - middle).T
    return float((ours * theirs).sum(axis=1).mean()), float((near.argmax(axis=1) == np.arange(shared)).mean())


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Every target of every model whose other row was measured. Of the pure forward rows the fastest counts."""
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        own = {row.variant: row for row in rows if row.model == model}
        ours = own[OURS]
        for name, target in TARGETS:
            if others := [row for row in own.values() if row.variant.startswith(name)]:
                other = max(others, key=lambda row: row.rate)
                ratios = [one / two for one, two in zip(ours.rates, other.rates, strict=True)]
                found.append(Verdict(model, other.variant, target, ratios))
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
