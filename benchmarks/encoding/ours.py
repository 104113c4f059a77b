"""Indexmill as the encode stage runs it: the only module of this benchmark that uses the project's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 256  # items for the batch-size search, before the timing


class Indexmill:
    """A loaded and warmed-up encoder with the rows to encode; paths in the rows are absolute."""

    def __init__(self, settings: dict[str, Any], items: list[str], *, images: bool) -> None:
        from pydantic import TypeAdapter

        from indexmill.configs.encoders import EncoderConfig
        from indexmill.tasks.encoding.precision import find_fastest_precision
        from indexmill.tasks.encoding.protocol import ModelSpec
        from indexmill.tasks.encoding.row_batches import preprocess_rows, set_fastest_batch_size
        from indexmill.tasks.encoding.worker import load_modality_encoder

        config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(settings)
        self._encoder = load_modality_encoder(ModelSpec(config, find_fastest_precision(), "image" if images else "text"))
        self._rows = [_row(number, item, images=images) for number, item in enumerate(items)]
        self._base = "/" if images else None
        set_fastest_batch_size(self._encoder, preprocess_rows(self._encoder, iter(self._rows[:WARM_UP]), self._base))

    def encode(self) -> np.ndarray:
        """Read, open, prepare and encode every row; returns float32 (n, dim)."""
        from indexmill.tasks.encoding.row_batches import encode_rows

        blocks = encode_rows(self._encoder, iter(self._rows), self._base, lambda items: None)
        return np.concatenate([block.encoded.vectors for block in blocks])

    def prepare(self) -> int:
        """Read, open and prepare every image; returns how many."""
        from indexmill.tasks.encoding.row_batches import preprocess_windows

        return sum(len(prepared) for _, prepared in preprocess_windows(self._encoder, iter(self._rows), self._base))


def encode_stage(root_path: str, split_json: str, settings: dict[str, Any]) -> int:
    """Run the encode stage without Prefect, with its encoder process; returns the number of vectors."""
    from pydantic import TypeAdapter

    from indexmill.configs.encoders import EncoderConfig
    from indexmill.storage.device_profiles import DeviceProfile
    from indexmill.storage.embedding_store import EmbeddingStore
    from indexmill.storage.records import SplitDataset
    from indexmill.storage.root import Root
    from indexmill.tasks.encoding.fill_store import EncodeRequest, fill_store
    from indexmill.tasks.encoding.process import EncoderProcess
    from indexmill.tasks.encoding.protocol import ModelSpec
    from indexmill.tasks.runner import LOCAL_RUNNER

    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(settings)
    root, split = Root(root_path), SplitDataset.model_validate_json(split_json)
    model = ModelSpec(config, "float32", split.modality)
    request = EncodeRequest(
        root, EmbeddingStore(root, "measured"), root.file(split.table), split.image_root, model, DeviceProfile(device="this")
    )
    with EncoderProcess() as process:
        result = fill_store(request, root.scratch.folder / "failed.parquet", LOCAL_RUNNER, process.encode)
    root.close()
    return result.encoded


def split_stage(root_path: str, dataset: dict[str, Any]) -> str:
    """Run the stages before encoding, with all items on the database side; returns the split's record as JSON."""
    from pydantic import TypeAdapter

    from indexmill.configs.datasets import DatasetConfig
    from indexmill.configs.models import SplitConfig, ValidateConfig
    from indexmill.storage.root import Root
    from indexmill.tasks.ingest import ingest
    from indexmill.tasks.sources.revisions import read_source_revision
    from indexmill.tasks.split import split
    from indexmill.tasks.validate import validate

    config, root = TypeAdapter(DatasetConfig).validate_python(dataset), Root(root_path)
    ingested = ingest.fn(root, "measured", config, read_source_revision(config, root))
    record = split.fn(root, validate.fn(root, ingested, ValidateConfig()), SplitConfig(mode="none"))
    root.close()
    return record.model_dump_json()


def _row(number: int, item: str, *, images: bool) -> dict[str, Any]:
    from indexmill.storage.digests import content_digest

    content = Path(item).read_bytes() if images else item.encode()
    digest = content_digest(content)
    return {"item_id": number, "content_digest": digest, "text": None if images else item, "path": item if images else None}
