"""What `index.factory: auto` tries: the families that can win at this size, within the memory allowed, and how the winner is told.

The policy, from measurements on 100,000 sentence embeddings (see docs/benchmarks.md):

- below FLAT_UPTO items exact search is quick, and nothing can find more;
- above it fast-scan IVF-PQ with exact re-ranking from the mapped vectors, with about 1.6 √n lists: fewer scan more than they
  need, and more take longer to train and to visit;
- codes of 4 bits for every 2 of the principal directions: two thirds of the dimensions keep nearly all that an inner product is made
  of, and half of them is the smaller choice;
- spilled (every item in two lists), which is quicker at twice the memory, and not spilled;
- where none of these reaches the target, lists of the vectors themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from indexmill.tasks.indexes.tuning import Tuned

FLAT_UPTO = 10_000
LISTS_STEP = 64
LISTS = 1.6  # times √n
ID_BYTES = 8


@dataclass(frozen=True)
class Candidate:
    """An index that may be built. pieces and dims: of the codes; 0 and None without codes.

    resident_bytes: estimated memory an item when it is served; the mapped vectors are not counted.
    """

    factory: str
    spill: bool
    rerank: Literal["none", "exact"]
    lists: int
    pieces: int
    dims: int | None
    resident_bytes: float


@dataclass(frozen=True)
class Row:
    """A line of the Pareto table: a candidate as tuned for one target."""

    candidate: Candidate
    tuned: Tuned
    on_front: bool

    def as_json(self) -> dict[str, Any]:
        """Numbers, strings and flags only."""
        chosen = self.tuned.chosen
        setting = {name: value for name, value in asdict(chosen.setting).items() if value is not None}
        measured = {"recall": chosen.recall, "recall_bound": chosen.bound, "cpu_seconds_a_query": chosen.cpu_seconds}
        return {
            **asdict(self.candidate),
            **setting,
            **measured,
            "target": self.tuned.target,
            "met": self.tuned.met,
            "on_front": self.on_front,
        }


def candidates(n: int, dim: int, memory_budget: int | None = None) -> list[Candidate]:
    """The candidates for n vectors of `dim` numbers, the likely winner first; never none.

    memory_budget: bytes that the served index may take in memory. If none fits, the smallest alone is given: its `resident_bytes` say so.
    """
    if n < FLAT_UPTO:
        return [Candidate("Flat", False, "none", 0, 0, None, 4 * dim + ID_BYTES)]
    lists = _lists(n)
    widths = [even for share in (2 / 3, 1 / 2) if (even := 2 * round(dim * share / 2))]
    made = [_fast_scan(n, dim, lists, dims, spill) for spill in (True, False) for dims in widths]
    fitting = [one for one in made if memory_budget is None or one.resident_bytes * n <= memory_budget]
    return fitting or [min(made, key=lambda one: one.resident_bytes)]


def uncoded(n: int, dim: int) -> Candidate:
    """What finds more than codes can, where no candidate finds enough: the vectors themselves in lists.

    Vectors that vary alike in all directions have no principal ones, and codes of theirs tell too little.
    """
    lists = _lists(n)
    return Candidate(f"IVF{lists},Flat", False, "none", lists, 0, None, round(4 * dim + ID_BYTES + 4 * dim * lists / n, 1))


def pareto(measured: Sequence[tuple[Candidate, Tuned]]) -> list[Row]:
    """All rows, those that meet the target first, the quickest first among them; on_front marks those that no other beats.

    A row is beaten by one that meets the target too, needs no more CPU time and no more memory, and less of one of them.
    """
    rows = [
        Row(candidate, tuned, tuned.met and not any(_beats(other, (candidate, tuned)) for other in measured))
        for candidate, tuned in measured
    ]
    return sorted(rows, key=lambda row: (not row.tuned.met, row.tuned.chosen.cpu_seconds if row.tuned.met else -row.tuned.chosen.bound))


def _lists(n: int) -> int:
    return max(LISTS_STEP, round(LISTS * math.sqrt(n) / LISTS_STEP) * LISTS_STEP)


def _fast_scan(n: int, dim: int, lists: int, dims: int, spill: bool) -> Candidate:
    pieces = dims // 2
    # A list is stored in whole blocks of 32 codes: half a block a list is empty. Beside it: centroids, projection, and the row's item id.
    a_list = (16 * pieces / 2 + 4 * dims) * lists / n
    entry = pieces / 2 + ID_BYTES
    resident = (1 + spill) * entry + a_list + 4 * dim * dims / n + ID_BYTES
    return Candidate(f"PCA{dims},IVF{lists},PQ{pieces}x4fs", spill, "exact", lists, pieces, dims, round(resident, 1))


def _beats(one: tuple[Candidate, Tuned], other: tuple[Candidate, Tuned]) -> bool:
    (candidate, tuned), (worse, slower) = one, other
    left = (tuned.chosen.cpu_seconds, candidate.resident_bytes)
    right = (slower.chosen.cpu_seconds, worse.resident_bytes)
    return tuned.met and left != right and left[0] <= right[0] and left[1] <= right[1]
