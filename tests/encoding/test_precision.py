"""A faster number format is taken only while its vectors agree with float32's."""

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


def points(degrees: Sequence[float]) -> np.ndarray:
    """float32 (n, 2): points on the unit circle."""
    turns = np.deg2rad(np.array(degrees, np.float64))
    return np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)


CIRCLE = points([0, 10, 30, 60, 100, 150])


def test_the_same_vectors_agree_wholly() -> None:
    """Whatever their lengths."""
    assert compute_agreement(CIRCLE, 3 * CIRCLE) == PrecisionAgreement(pytest.approx(1), 1, 6)
    assert passes(compute_agreement(CIRCLE, CIRCLE))


def test_the_mean_cosine_is_over_all_items() -> None:
    """Two of three stay, one turns by 60 degrees: (1 + 1 + 0.5) / 3."""
    turned = CIRCLE[:3].copy()
    turned[0] = [0.5, np.sqrt(0.75)]
    assert compute_agreement(CIRCLE[:3], turned).mean_cosine == pytest.approx(2.5 / 3)


def test_overlap_counts_the_ten_nearest_others() -> None:
    """Eleven items at 0 to 10 degrees are one another's ten nearest. The twelfth goes from 90 to -80 degrees and loses one of its ten."""
    exact, fast = (points([*range(11), last]) for last in (90, -80))
    assert compute_agreement(exact, fast).overlap_at_10 == pytest.approx((11 + 9 / 10) / 12)


def test_equally_near_items_may_change_places() -> None:
    """20 copies of one item: whichever 10 come first, all are right."""
    same = np.ones((20, 3), np.float32)
    jittered = same + np.random.default_rng(0).normal(0, 1e-4, same.shape).astype(np.float32)
    assert compute_agreement(same, jittered).overlap_at_10 == 1


@pytest.mark.parametrize(("cosine", "overlap", "verdict"), [(0.999, 0.95, True), (0.9989, 1, False), (1, 0.949, False)])
def test_both_limits_count(cosine: float, overlap: float, verdict: bool) -> None:
    """0.999 and 0.95 are just enough."""
    assert passes(PrecisionAgreement(cosine, overlap, 100)) is verdict


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32))
def test_figures_stay_in_their_range_and_orders_do_not_matter(count: int, dim: int, seed: int) -> None:
    """Overlap in 0 to 1 for unrelated vectors too; the sample may be shuffled; up to 11 items, everyone is everyone's neighbour."""
    random = np.random.default_rng(seed)
    exact, fast = random.standard_normal((2, count, dim + 1)).astype(np.float32)
    told = compute_agreement(exact, fast)
    assert 0 <= told.overlap_at_10 <= 1
    assert -1.0001 <= told.mean_cosine <= 1.0001
    assert told.items == count
    if count <= 11:
        assert told.overlap_at_10 == 1
    order = random.permutation(count)
    shuffled = compute_agreement(exact[order], fast[order])
    assert shuffled.mean_cosine == pytest.approx(told.mean_cosine, abs=1e-5)
    assert shuffled.overlap_at_10 == pytest.approx(told.overlap_at_10, abs=1e-5)


def test_the_best_precision_is_one_that_this_machine_computes_in() -> None:
    """bfloat16 exactly where the processor says it has it; never an imitation."""
    if torch.cuda.is_available():
        assert find_fastest_precision() in ("bfloat16", "float16")
    else:
        assert find_fastest_precision() == ("bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _native() else "float32")


def _native() -> bool:
    from pathlib import Path

    flags = Path("/proc/cpuinfo").read_text()
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))


def test_each_precision_is_an_encoder_of_its_own() -> None:
    """Vectors of two precisions never share a store; the details say which it is."""
    config = load_config("demo-images").encoder
    exact, fast = identify(config), identify(config, "bfloat16")
    assert exact.fingerprint == identify(config, "float32").fingerprint != fast.fingerprint
    assert (exact.details["precision"], fast.details["precision"]) == ("float32", "bfloat16")
