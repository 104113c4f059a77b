"""What a query costs besides the search: its encoding."""

from __future__ import annotations

from configs.models import EncoderConfig
from storage import tables
from storage.records import EmbeddingSet
from storage.root import Root
from tasks.encoders.export_once import export_once
from tasks.encoders.jobs import Model, TimeQueries
from tasks.encoders.process import EncoderProcess
from tasks.progress import track


def encode_times(root: Root, asked: EmbeddingSet, config: EncoderConfig, base: str | None, count: int) -> dict[str, float]:
    """Milliseconds to encode one of `count` held-out queries, in a process of its own; nothing without queries.

    base: the folder of images; None for texts. While the model is there, it is also exported, if it never was (`export_once`).
    """
    if not count or not asked.query:
        return {}
    with root.scratch.staging() as staging, track("timing the encoder", 1) as advance, EncoderProcess() as process:
        sample = staging / "queries.parquet"
        source = f"FROM {tables.parquet(root.file(asked.items))} WHERE side = 'query' ORDER BY item_id LIMIT {count}"
        tables.copy(f"SELECT item_id, content_digest, text, path {source}", sample, spill=root.tmp)
        model = Model(config, asked.encoder["precision"], asked.modality)
        found = process.time_queries(TimeQueries(model, str(sample), base if asked.modality == "image" else None))
        advance(1)
        export_once(root, process, config, asked)
    return found
