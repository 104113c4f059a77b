"""A cache of what was measured for an encoder on a device: precision, batch sizes, rates.

No digest depends on it, and it is safe to delete."""

from __future__ import annotations

from pydantic import Field

from indexmill.storage.digests import json_digest
from indexmill.storage.records import FrozenModel, Modality, Precision, Runtime
from indexmill.storage.root import Root


class PrecisionCheck(FrozenModel):
    """How close the vectors of a faster precision are to those of float32, on a sample of `items` items.

    mean_cosine: The mean cosine of an item's two vectors.
    overlap_at_10: The mean share of an item's ten nearest neighbors that are the same.
    """

    tried: Precision
    items: int
    mean_cosine: float
    overlap_at_10: float
    passes: bool


class DeviceProfile(FrozenModel):
    """The measurements of one encoder on one device.

    precision: What `auto` chose on this device.
    check: The check behind that choice; None where no precision is faster than float32.
    runtimes: The faster runtime per precision, where two were compared.
    batch_sizes: The fastest batch size per precision.
    rates: Items per second of the whole stage, per precision.
    peak_bytes: The peak memory of the encoding process.
    query_times: Encoding times of one query, with the keys of metrics.json.
    """

    device: str
    precision: Precision | None = None
    check: PrecisionCheck | None = None
    runtimes: dict[str, Runtime] = Field(default_factory=dict)
    batch_sizes: dict[str, int] = Field(default_factory=dict)
    rates: dict[str, float] = Field(default_factory=dict)
    peak_bytes: int = 0
    query_times: dict[str, float] = Field(default_factory=dict)


def load_device_profile(root: Root, model: str, modality: Modality, device: str) -> DeviceProfile:
    """Load the profile of an encoder on a device; an empty one when none is cached or it cannot be read."""
    try:
        text = root.fetch(root.device_profile(model, json_digest([modality, device]))).read_text(encoding="utf-8")
        return DeviceProfile.model_validate_json(text)
    except (OSError, ValueError):
        return DeviceProfile(device=device)


def save_device_profile(root: Root, model: str, modality: Modality, device_profile: DeviceProfile) -> None:
    """Save the profile for the next build."""
    root.write_record(root.device_profile(model, json_digest([modality, device_profile.device])), device_profile)
