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
    *,
    gpu_slot: AbstractContextManager[object],
) -> dict[str, float]:
    """Return the milliseconds it takes to encode one query, from the device profile if at least `count` queries were timed before.

    Loading a model takes longer than everything else in a build with few changes, so the measurement is cached. It runs in a process of its
    own.

    Args:
        root: The storage root.
        query_embeddings: The held-out queries; without queries nothing is measured.
        config: The encoder.
        image_root: The folder of the images; None for texts.
        count: Queries to time.
        gpu_slot: Held while the model is loaded.
    """
    count_available = min(count, query_embeddings.query)
    if not count_available:
        return {}
    profile = load_device_profile(root, query_embeddings.fingerprint, query_embeddings.modality, get_device_name())
    if profile.query_times.get("encode_queries", 0) < count_available:
        with gpu_slot:
            query_times = _measure_encode_latency(root, query_embeddings, config, image_root, count)
        profile = profile.model_copy(update={"query_times": query_times})
        save_device_profile(root, query_embeddings.fingerprint, query_embeddings.modality, profile)
    return profile.query_times


def _measure_encode_latency(
    root: Root, query_embeddings: EmbeddingSet, config: EncoderConfig, image_root: str | None, count: int
) -> dict[str, float]:
    with root.scratch.staging() as staging, track("measuring encode latency", 1) as advance, EncoderProcess() as process:
        sample = staging / "queries.parquet"
        items = parquet.scan_sql(root.file(query_embeddings.items))
        sql = f"SELECT item_id, content_digest, text, path FROM {items} WHERE side = 'query' ORDER BY item_id LIMIT {count}"
        parquet.copy_query(sql, sample, temp_dir=root.tmp)
        model = ModelSpec(config, query_embeddings.encoder["precision"], query_embeddings.modality, role="query")
        query_times = process.time_queries(TimeQueries(model, str(sample), image_root if query_embeddings.modality == "image" else None))
        advance(1)
    return query_times
