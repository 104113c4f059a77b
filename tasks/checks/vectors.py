"""Vectors that cannot be searched."""

from __future__ import annotations

import numpy as np

Problem = tuple[str, str]  # a reason's code, and what it says


def vector_problems(vectors: np.ndarray, dim: int) -> dict[int, Problem]:
    """Row -> reason, for the rows of float32 (n, any) that are not `dim` finite numbers, one of them at least not zero.

    Reasons: `wrong_dimension`, `not_finite`, `zero_vector`.
    """
    if vectors.shape[1] != dim:
        return dict.fromkeys(range(len(vectors)), ("wrong_dimension", f"{vectors.shape[1]} numbers, and the encoder's vectors have {dim}"))
    finite = np.isfinite(vectors).all(axis=1)
    problems = {int(row): ("not_finite", "the encoder gave a number that is infinite or none") for row in np.flatnonzero(~finite)}
    zero = finite & ~vectors.any(axis=1)
    return problems | {int(row): ("zero_vector", "the encoder gave zeros alone, which have no direction") for row in np.flatnonzero(zero)}
