"""Latency of encoding one query, measured once per encoder and device and then cached."""

from __future__ import annotations

from contextlib import AbstractContextManager

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import parquet
from indexmill.storage.device_profiles import load_device_profile, save_device_profile
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ModelSpec, TimeQueries
from indexmill.tasks.progress import track


def load_or_measure_encode_latency(
    root: Root,
    query_embeddings: EmbeddingSet,
    config: EncoderConfig,
    image_root: str | None,
    count: int,
    gpu_slot: AbstractContextManager[object],
) -> dict[str, float]:
    """Milliseconds to encode one of `count` held-out queries; nothing without queries.

    Measured once for an encoder on a device, in a process of its own, and remembered: to load a model takes longer than all else that a
    night of few changes has to do. base: the folder of images; None for texts. turn: held while the model is loaded.
    """
    wanted = min(count, query_embeddings.query)
    if not wanted:
        return {}
    profile = load_device_profile(root, query_embeddings.fingerprint, query_embeddings.modality, get_device_name())
    if profile.query_times.get("encode_queries", 0) < wanted:
        with gpu_slot:
            profile = profile.model_copy(update={"query_times": _measure_encode_latency(root, query_embeddings, config, image_root, count)})
        save_device_profile(root, query_embeddings.fingerprint, query_embeddings.modality, profile)
    return profile.query_times


def _measure_encode_latency(
    root: Root, query_embeddings: EmbeddingSet, config: EncoderConfig, image_root: str | None, count: int
) -> dict[str, float]:
    with root.scratch.staging() as staging, track("timing the encoder", 1) as advance, EncoderProcess() as process:
        sample = staging / "queries.parquet"
        source = f"FROM {parquet.scan_sql(root.file(query_embeddings.items))} WHERE side = 'query' ORDER BY item_id LIMIT {count}"
        parquet.copy_query(f"SELECT item_id, content_digest, text, path {source}", sample, temp_dir=root.tmp)
        model = ModelSpec(config, query_embeddings.encoder["precision"], query_embeddings.modality)
        found = process.time_queries(TimeQueries(model, str(sample), image_root if query_embeddings.modality == "image" else None))
        advance(1)
    return found
