"""Cache what was measured for an encoder on a device: precision, batch sizes, rates; part of no digest and safe to delete."""

from __future__ import annotations

from pydantic import Field

from indexmill.storage.digests import json_digest
from indexmill.storage.records import FrozenModel, Modality, Precision
from indexmill.storage.root import Root


class PrecisionCheck(FrozenModel):
    """How near the vectors of a faster precision come to float32's, on a sample of `items` of the user's own.

    mean_cosine: of the two vectors of an item. overlap_at_10: share of an item's ten nearest neighbours that are the same.
    """

    tried: Precision
    items: int
    mean_cosine: float
    overlap_at_10: float
    passes: bool


class DeviceProfile(FrozenModel):
    """precision: what `auto` chose here, and the check that it rests on (None where nothing is faster than float32).

    batch_sizes: the fastest, by precision. rates: items a second of the whole stage, by precision. peak_bytes: the most memory that the
    encoding process has taken. query_times: what one query took to encode, as metrics.json has it.
    """

    device: str
    precision: Precision | None = None
    check: PrecisionCheck | None = None
    batch_sizes: dict[str, int] = Field(default_factory=dict)
    rates: dict[str, float] = Field(default_factory=dict)
    peak_bytes: int = 0
    query_times: dict[str, float] = Field(default_factory=dict)


def load_device_profile(root: Root, model: str, modality: Modality, device: str) -> DeviceProfile:
    """What is remembered; an empty one when nothing is, or when it cannot be read."""
    try:
        text = root.device_profile(model, json_digest([modality, device])).read_text(encoding="utf-8")
        return DeviceProfile.model_validate_json(text)
    except (OSError, ValueError):
        return DeviceProfile(device=device)


def save_device_profile(root: Root, model: str, modality: Modality, device_profile: DeviceProfile) -> None:
    """Keep it for the next night."""
    root.write_record(root.device_profile(model, json_digest([modality, device_profile.device])), device_profile)
