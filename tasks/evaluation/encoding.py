"""What a query costs besides the search: its encoding."""

from __future__ import annotations

from contextlib import AbstractContextManager

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import tables
from indexmill.storage.experience import recall_experience, remember_experience
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.encoders.device import device_name
from indexmill.tasks.encoders.export_once import export_once
from indexmill.tasks.encoders.jobs import Model, TimeQueries
from indexmill.tasks.encoders.process import EncoderProcess
from indexmill.tasks.progress import track


def encode_times(
    root: Root, asked: EmbeddingSet, config: EncoderConfig, base: str | None, count: int, turn: AbstractContextManager[object]
) -> dict[str, float]:
    """Milliseconds to encode one of `count` held-out queries; nothing without queries.

    Measured once for an encoder on a device, in a process of its own, and remembered: to load a model takes longer than all else that a
    night of few changes has to do. base: the folder of images; None for texts. turn: held while the model is loaded.
    It is also exported then, if it never was (`export_once`).
    """
    wanted = min(count, asked.query)
    if not wanted:
        return {}
    known = recall_experience(root, asked.fingerprint, asked.modality, device_name())
    if known.query_times.get("encode_queries", 0) < wanted:
        with turn:
            known = known.model_copy(update={"query_times": _measured(root, asked, config, base, count)})
        remember_experience(root, asked.fingerprint, asked.modality, known)
    return known.query_times


def _measured(root: Root, asked: EmbeddingSet, config: EncoderConfig, base: str | None, count: int) -> dict[str, float]:
    with root.scratch.staging() as staging, track("timing the encoder", 1) as advance, EncoderProcess() as process:
        sample = staging / "queries.parquet"
        source = f"FROM {tables.parquet(root.file(asked.items))} WHERE side = 'query' ORDER BY item_id LIMIT {count}"
        tables.copy(f"SELECT item_id, content_digest, text, path {source}", sample, spill=root.tmp)
        model = Model(config, asked.encoder["precision"], asked.modality)
        found = process.time_queries(TimeQueries(model, str(sample), base if asked.modality == "image" else None))
        advance(1)
        export_once(root, process, config, asked)
    return found
