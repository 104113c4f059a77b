"""Which number format a model runs in: the fastest of the hardware, while its vectors agree with those of float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexmill.configs.encoders import Precision

NEIGHBOURS = 10
LEAST_COSINE, LEAST_OVERLAP = 0.999, 0.95
TIE = 1e-6  # a float32 cosine is no surer than this


@dataclass(frozen=True)
class Agreement:
    """How far two encodings of the same sample agree. Both figures lie within 0 to 1 for vectors that are alike at all; 1 is perfect."""

    mean_cosine: float
    overlap_at_10: float
    items: int


def best_precision() -> Precision:
    """The fastest format that the hardware computes in by itself: bfloat16, else float16 on a GPU, else float32.

    A CPU without bfloat16 instructions would only imitate them, more slowly than it computes in float32.
    """
    import torch  # here: takes a second

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    has = torch.cpu.get_capabilities()
    return "bfloat16" if any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")) else "float32"


def agreement(exact: np.ndarray, fast: np.ndarray) -> Agreement:
    """Two encodings of one sample compared, both float32 (n, dim), n at least 1. Holds an (n, n) table of cosines.

    mean_cosine: between the two vectors of an item, over all n. overlap_at_10: of an item's 10 nearest others by cosine among the `fast`
    vectors (equal ones in the sample's order), the share that is as near as the tenth nearest among the `exact` ones, over all items; so
    it does not matter which of equally near items come first. Of a smaller sample, all n - 1 others count: 1.0.
    """
    exact, fast = _unit(exact), _unit(fast)
    count = min(NEIGHBOURS, len(exact) - 1)
    overlap = _overlap(_table(exact), _table(fast), count) if count else 1.0
    return Agreement(float((exact * fast).sum(axis=1).mean()), overlap, len(exact))


def holds(agreed: Agreement) -> bool:
    """Whether the fast vectors may stand for the exact ones: mean cosine at least 0.999, overlap@10 at least 0.95."""
    return agreed.mean_cosine >= LEAST_COSINE and agreed.overlap_at_10 >= LEAST_OVERLAP


def least_cosine(exact: np.ndarray, other: np.ndarray) -> float:
    """The least of 1 - ‖a - b‖² / 2‖a‖² over the vectors a of `exact` and b of `other`, float32 (n, dim), n at least 1.

    For vectors of length 1 that is their cosine; of others it falls with the difference of their lengths too. Not finite numbers give 0.
    """
    apart = np.square(exact - other).sum(axis=1) / np.maximum(2 * np.square(exact).sum(axis=1), np.finfo(np.float32).tiny)
    return float(np.nan_to_num(1 - apart, nan=0.0, posinf=0.0, neginf=0.0).min())


def _overlap(exact: np.ndarray, fast: np.ndarray, count: int) -> float:
    """The mean share of the `count` nearest in `fast` whose value in `exact` reaches the row's `count`-th greatest."""
    least = np.partition(exact, -count, axis=1)[:, -count, None]
    nearest = np.argsort(-fast, axis=1, kind="stable")[:, :count]
    return float((np.take_along_axis(exact, nearest, axis=1) >= least - TIE).mean())


def _table(vectors: np.ndarray) -> np.ndarray:
    """float32 (n, n): cosines of all pairs; no item is its own neighbour."""
    table = vectors @ vectors.T
    np.fill_diagonal(table, -np.inf)
    return table


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
