"""Choose the precision that a model runs in: the fastest on this device whose vectors agree with float32's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import parquet
from indexmill.storage.device_profiles import DeviceProfile, PrecisionCheck, load_device_profile
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.records import Modality, Precision
from indexmill.storage.root import Root
from indexmill.tasks.encoding.device import get_device_name, has_gpu
from indexmill.tasks.encoding.identity import EncoderIdentity
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ComparePrecision, ModelSpec, PrecisionComparison
from indexmill.tasks.progress import track

OVERLAP_K = 10
MIN_MEAN_COSINE, MIN_OVERLAP = 0.999, 0.95
COSINE_TOLERANCE = 1e-6  # the rounding error of a cosine in float32
SAMPLE_SIZE = 256  # items that are encoded in both precisions
RECHECK_NEW_ITEMS = 10 * SAMPLE_SIZE  # this many new items trigger another check


@dataclass(frozen=True)
class PrecisionAgreement:
    """How two encodings of one sample agree; 1 is perfect.

    Attributes:
        mean_cosine: Of the two vectors of an item, over all items.
        overlap_at_10: Share of an item's 10 nearest neighbors that both encodings agree on, over all items.
        items: Size of the sample.
    """

    mean_cosine: float
    overlap_at_10: float
    items: int


@dataclass(frozen=True, kw_only=True)
class PrecisionRequest:
    """What to choose a precision for.

    Attributes:
        config: The encoder.
        identity: The encoder's identity, in float32.
        modality: What it encodes.
        items: The items table.
        image_root: The folder that image paths are relative to; None for texts.
    """

    config: EncoderConfig
    identity: EncoderIdentity
    modality: Modality
    items: Path
    image_root: str | None


def choose_precision(root: Root, process: EncoderProcess, request: PrecisionRequest, profile: DeviceProfile) -> DeviceProfile:
    """Choose the precision for `auto`.

    A precision in the profile stays, unless it passed a check and many items are new: then it is checked again.
    A precision that failed a check is not tried again.

    Args:
        root: The storage root.
        process: Encodes the sample.
        request: Encoder and items.
        profile: What this device has measured with the encoder.

    Returns:
        The profile with its precision set, and the check if there was one.
    """
    needs_no_check = profile.check is None or not profile.check.passes
    if profile.precision is not None and (needs_no_check or _count_missing(root, request, profile.precision) < RECHECK_NEW_ITEMS):
        return profile
    with root.scratch.staging() as staging, track("checking the fast precision", 1) as advance:
        sample = _write_sample(root, request.items, staging / "sample.parquet")
        model = ModelSpec(request.config, "float32", request.modality)
        comparison = process.compare_precisions(ComparePrecision(model, str(sample), request.image_root))
        advance(1)
    return _apply_check(profile, comparison)


def find_expected_model(root: Root, config: EncoderConfig, identity: EncoderIdentity) -> ModelSpec | None:
    """Return the model that a build will encode its items with, as far as an earlier build has found out.

    Args:
        root: The storage root.
        config: The encoder.
        identity: Its identity, in float32.

    Returns:
        The model; None before a precision was chosen, and on a machine with a GPU, whose memory may be another build's.
    """
    if has_gpu():
        return None
    modality = identity.modalities[0]
    if config.precision != "auto":
        return ModelSpec(config, config.precision, modality)
    precision = load_device_profile(root, identity.fingerprint, modality, get_device_name()).precision
    return ModelSpec(config, precision, modality) if precision else None


def find_fastest_precision() -> Precision:
    """Return the fastest format that the hardware computes natively: bfloat16, else float16 on a GPU, else float32.

    A CPU without bfloat16 instructions would emulate it, which is slower than float32.
    """
    import torch  # imported here: takes a second

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    capabilities = torch.cpu.get_capabilities()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    return "bfloat16" if native else "float32"


def compute_agreement(exact: np.ndarray, fast: np.ndarray) -> PrecisionAgreement:
    """Compare two encodings of one sample.

    mean_cosine is the cosine of an item's two vectors, averaged over all n items. overlap_at_10 takes an item's
    10 nearest other items by cosine among the `fast` vectors (ties in the sample's order), and is the share of them at
    least as near as the tenth nearest among the `exact` vectors, averaged over all n items; so the order of ties does
    not matter. In a sample of at most 11 items, all n - 1 others count, and the overlap is 1.0.

    Args:
        exact: float32 (n, dim), n >= 1.
        fast: float32 (n, dim).

    Returns:
        The agreement. Uses O(n^2) memory.
    """
    exact, fast = _normalize_rows(exact), _normalize_rows(fast)
    k = min(OVERLAP_K, len(exact) - 1)
    overlap = _compute_overlap(_compute_cosines(exact), _compute_cosines(fast), k) if k else 1.0
    return PrecisionAgreement(float((exact * fast).sum(axis=1).mean()), overlap, len(exact))


def passes(agreement: PrecisionAgreement) -> bool:
    """Return whether the fast vectors may replace the exact ones: mean cosine >= 0.999, overlap@10 >= 0.95."""
    return agreement.mean_cosine >= MIN_MEAN_COSINE and agreement.overlap_at_10 >= MIN_OVERLAP


def compute_min_cosine(exact: np.ndarray, other: np.ndarray) -> float:
    """Compute the minimum of 1 - ‖a - b‖² / 2‖a‖² over pairs of vectors a and b.

    For unit vectors this is the cosine; otherwise it also falls as the lengths differ.

    Args:
        exact: The vectors a, float32 (n, dim), n >= 1.
        other: The vectors b, float32 (n, dim).

    Returns:
        The minimum; 0 for a pair with numbers that are not finite.
    """
    distances = np.square(exact - other).sum(axis=1) / np.maximum(2 * np.square(exact).sum(axis=1), np.finfo(np.float32).tiny)
    return float(np.nan_to_num(1 - distances, nan=0.0, posinf=0.0, neginf=0.0).min())


def _compute_overlap(exact: np.ndarray, fast: np.ndarray, k: int) -> float:
    """Average over rows the share of the k largest in `fast` that reach the k-th largest in `exact`; both (n, n)."""
    threshold = np.partition(exact, -k, axis=1)[:, -k, None]
    nearest = np.argsort(-fast, axis=1, kind="stable")[:, :k]
    return float((np.take_along_axis(exact, nearest, axis=1) >= threshold - COSINE_TOLERANCE).mean())


def _compute_cosines(vectors: np.ndarray) -> np.ndarray:
    """Compute all pairwise cosines, float32 (n, n); -inf on the diagonal, since no item is its own neighbor."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines


def _normalize_rows(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def _count_missing(root: Root, request: PrecisionRequest, precision: Precision) -> int:
    identity = request.identity.for_store(request.modality, precision, request.config.storage_dtype)
    return EmbeddingStore(root, identity.fingerprint).count_missing(request.items)


def _write_sample(root: Root, items: Path, target: Path) -> Path:
    """Write the contents with the smallest hashes: always the same ones for the same items."""
    distinct = f"SELECT DISTINCT ON (content_digest) item_id, content_digest, text, path FROM {parquet.scan_sql(items)} ORDER BY item_id"
    parquet.copy_query(f"SELECT * FROM ({distinct}) ORDER BY md5(content_digest) LIMIT {SAMPLE_SIZE}", target, temp_dir=root.tmp)
    return target


def _apply_check(profile: DeviceProfile, comparison: PrecisionComparison) -> DeviceProfile:
    if comparison.tried == "float32":
        return profile.model_copy(update={"precision": "float32"})
    check = PrecisionCheck.model_validate(comparison._asdict())
    return profile.model_copy(update={"precision": comparison.tried if check.passes else "float32", "check": check})
