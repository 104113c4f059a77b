"""Choose the precision that a model runs in: the fastest on this device whose vectors agree with those of float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.device_profiles import DeviceProfile, PrecisionCheck
from indexmill.storage.records import Precision
from indexmill.storage.root import Root
from indexmill.tasks.encoding.protocol import PrecisionComparison

OVERLAP_K = 10
MIN_MEAN_COSINE, MIN_OVERLAP = 0.999, 0.95
COSINE_TOLERANCE = 1e-6  # a float32 cosine is no surer than this


@dataclass(frozen=True)
class PrecisionAgreement:
    """How far two encodings of the same sample agree. Both figures lie within 0 to 1 for vectors that are alike at all; 1 is perfect."""

    mean_cosine: float
    overlap_at_10: float
    items: int


def find_fastest_precision() -> Precision:
    """The fastest format that the hardware computes in by itself: bfloat16, else float16 on a GPU, else float32.

    A CPU without bfloat16 instructions would only imitate them, more slowly than it computes in float32.
    """
    import torch  # here: takes a second

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    has = torch.cpu.get_capabilities()
    return "bfloat16" if any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")) else "float32"


def compute_agreement(exact: np.ndarray, fast: np.ndarray) -> PrecisionAgreement:
    """Two encodings of one sample compared, both float32 (n, dim), n at least 1. Holds an (n, n) table of cosines.

    mean_cosine: between the two vectors of an item, over all n. overlap_at_10: of an item's 10 nearest others by cosine among the `fast`
    vectors (equal ones in the sample's order), the share that is as near as the tenth nearest among the `exact` ones, over all items; so
    it does not matter which of equally near items come first. Of a smaller sample, all n - 1 others count: 1.0.
    """
    exact, fast = _normalize_rows(exact), _normalize_rows(fast)
    count = min(OVERLAP_K, len(exact) - 1)
    overlap = _compute_overlap(_compute_cosines(exact), _compute_cosines(fast), count) if count else 1.0
    return PrecisionAgreement(float((exact * fast).sum(axis=1).mean()), overlap, len(exact))


def passes(agreed: PrecisionAgreement) -> bool:
    """Whether the fast vectors may stand for the exact ones: mean cosine at least 0.999, overlap@10 at least 0.95."""
    return agreed.mean_cosine >= MIN_MEAN_COSINE and agreed.overlap_at_10 >= MIN_OVERLAP


def compute_min_cosine(exact: np.ndarray, other: np.ndarray) -> float:
    """The least of 1 - ‖a - b‖² / 2‖a‖² over the vectors a of `exact` and b of `other`, float32 (n, dim), n at least 1.

    For vectors of length 1 that is their cosine; of others it falls with the difference of their lengths too. Not finite numbers give 0.
    """
    apart = np.square(exact - other).sum(axis=1) / np.maximum(2 * np.square(exact).sum(axis=1), np.finfo(np.float32).tiny)
    return float(np.nan_to_num(1 - apart, nan=0.0, posinf=0.0, neginf=0.0).min())


def _compute_overlap(exact: np.ndarray, fast: np.ndarray, count: int) -> float:
    """The mean share of the `count` nearest in `fast` whose value in `exact` reaches the row's `count`-th greatest."""
    least = np.partition(exact, -count, axis=1)[:, -count, None]
    nearest = np.argsort(-fast, axis=1, kind="stable")[:, :count]
    return float((np.take_along_axis(exact, nearest, axis=1) >= least - COSINE_TOLERANCE).mean())


def _compute_cosines(vectors: np.ndarray) -> np.ndarray:
    """float32 (n, n): cosines of all pairs; no item is its own neighbour."""
    table = vectors @ vectors.T
    np.fill_diagonal(table, -np.inf)
    return table


def _normalize_rows(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


SAMPLE_SIZE = 256  # items that are encoded twice to compare
RECHECK_NEW_ITEMS = 10 * SAMPLE_SIZE  # so many new items are worth another look

ComparePrecisions = Callable[[Path], PrecisionComparison]


def choose_precision(
    root: Root, items: Path, profile: DeviceProfile, missing: Callable[[Precision], int], compare: ComparePrecisions
) -> DeviceProfile:
    """The experience with its precision settled.

    What is known holds, unless it is a fast precision and many items are new: then these are checked too. A precision that failed once
    is not tried again. missing: how many contents lack a vector of that precision. compare: encodes the sample (a table) both ways.
    """
    trusted = profile.check is None or not profile.check.passes
    if profile.precision is not None and (trusted or missing(profile.precision) < RECHECK_NEW_ITEMS):
        return profile
    with root.scratch.staging() as staging:
        return _apply_check(profile, compare(_write_sample(root, items, staging / "sample.parquet")))


def _write_sample(root: Root, items: Path, target: Path) -> Path:
    """The contents with the smallest hashes, so the same ones for the same items."""
    distinct = f"SELECT DISTINCT ON (content_digest) item_id, content_digest, text, path FROM {parquet.scan_sql(items)} ORDER BY item_id"
    parquet.copy_query(f"SELECT * FROM ({distinct}) ORDER BY md5(content_digest) LIMIT {SAMPLE_SIZE}", target, temp_dir=root.tmp)
    return target


def _apply_check(profile: DeviceProfile, comparison: PrecisionComparison) -> DeviceProfile:
    if comparison.tried == "float32":
        return profile.model_copy(update={"precision": "float32"})
    check = PrecisionCheck.model_validate(comparison._asdict())
    return profile.model_copy(update={"precision": comparison.tried if check.passes else "float32", "check": check})
