"""A faster precision is used only if its vectors agree with float32's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indexmill.configs.loading import load_config
from indexmill.tasks.encoding import identify
from indexmill.tasks.encoding.precision import PrecisionAgreement, compute_agreement, find_fastest_precision, passes


def make_circle_points(degrees: Sequence[float]) -> np.ndarray:
    """float32 (n, 2): points on the unit circle."""
    angles = np.deg2rad(np.array(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


CIRCLE = make_circle_points([0, 10, 30, 60, 100, 150])


def test_equal_directions_agree_fully() -> None:
    """Lengths do not matter."""
    assert compute_agreement(CIRCLE, 3 * CIRCLE) == PrecisionAgreement(pytest.approx(1), 1, 6)
    assert passes(compute_agreement(CIRCLE, CIRCLE))


def test_the_mean_cosine_is_over_all_items() -> None:
    """Two of three stay, one rotates by 60 degrees: (1 + 1 + 0.5) / 3."""
    rotated = CIRCLE[:3].copy()
    rotated[0] = [0.5, np.sqrt(0.75)]
    assert compute_agreement(CIRCLE[:3], rotated).mean_cosine == pytest.approx(2.5 / 3)


def test_overlap_counts_the_ten_nearest_others() -> None:
    """Eleven items are each other's ten nearest; the twelfth moves from 90 to -80 degrees and loses one."""
    exact, fast = (make_circle_points([*range(11), last]) for last in (90, -80))
    assert compute_agreement(exact, fast).overlap_at_10 == pytest.approx((11 + 9 / 10) / 12)


def test_ties_may_change_places() -> None:
    """20 copies of one item: any 10 are correct."""
    same = np.ones((20, 3), np.float32)
    jittered = same + np.random.default_rng(0).normal(0, 1e-4, same.shape).astype(np.float32)
    assert compute_agreement(same, jittered).overlap_at_10 == 1


@pytest.mark.parametrize(("cosine", "overlap", "expected"), [(0.999, 0.95, True), (0.9989, 1, False), (1, 0.949, False)])
def test_both_limits_apply(cosine: float, overlap: float, expected: bool) -> None:
    """0.999 and 0.95 are just enough; either one below its limit fails."""
    assert passes(PrecisionAgreement(cosine, overlap, 100)) is expected


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32))
def test_scores_stay_in_range_and_order_does_not_matter(count: int, dim: int, seed: int) -> None:
    """Overlap is in 0 to 1 even for unrelated vectors, and 1 for up to 11 items, which are all neighbors."""
    random = np.random.default_rng(seed)
    exact, fast = random.standard_normal((2, count, dim + 1)).astype(np.float32)
    agreement = compute_agreement(exact, fast)
    assert 0 <= agreement.overlap_at_10 <= 1
    assert -1.0001 <= agreement.mean_cosine <= 1.0001
    assert agreement.items == count
    if count <= 11:
        assert agreement.overlap_at_10 == 1
    order = random.permutation(count)
    shuffled = compute_agreement(exact[order], fast[order])
    assert shuffled.mean_cosine == pytest.approx(agreement.mean_cosine, abs=1e-5)
    assert shuffled.overlap_at_10 == pytest.approx(agreement.overlap_at_10, abs=1e-5)


def test_the_fastest_precision_is_native_to_this_machine() -> None:
    """bfloat16 exactly where the CPU has instructions for it; never emulated."""
    if torch.cuda.is_available():
        assert find_fastest_precision() in ("bfloat16", "float16")
    else:
        assert find_fastest_precision() == (
            "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_native_bfloat16() else "float32"
        )


def _has_native_bfloat16() -> bool:
    from pathlib import Path

    flags = Path("/proc/cpuinfo").read_text()
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


def test_each_precision_has_its_own_fingerprint() -> None:
    """Vectors of two precisions never share a store; the details name the precision."""
    config = load_config("demo-images").encoder
    exact, fast = identify(config), identify(config, "bfloat16")
    assert exact.fingerprint == identify(config, "float32").fingerprint != fast.fingerprint
    assert (exact.details["precision"], fast.details["precision"]) == ("float32", "bfloat16")
