"""Indexmill as the encode stage runs it: the one place of this benchmark that knows the project's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

WARM_UP = 64  # items encoded before anything is timed


class Indexmill:
    """An encoder loaded, with the rows that it is to encode; paths in the rows are absolute. Warm once made."""

    def __init__(self, settings: dict[str, Any], items: list[str], *, images: bool) -> None:
        from pydantic import TypeAdapter

        from configs.models import EncoderConfig
        from tasks.encoders import load_encoder

        self._encoder = load_encoder(TypeAdapter(EncoderConfig).validate_python(settings))
        self._rows = [_row(number, item, images=images) for number, item in enumerate(items)]
        self._base = "/" if images else None
        self._encode(self._rows[:WARM_UP])

    def encode(self) -> np.ndarray:
        """Read, open, prepare and encode every row: float32 (n, dim)."""
        return self._encode(self._rows)

    def prepare(self) -> int:
        """Read, open and prepare every image, and throw it away; how many."""
        from tasks.encode import _prepared

        return sum(len(window) for window in _prepared(self._encoder, self._rows, Path("/")))

    def _encode(self, rows: list[dict[str, Any]]) -> np.ndarray:
        from tasks.encode import _vectors

        return _vectors(self._encoder, rows, self._base, lambda finished: None)


def encode_stage(root_path: str, split_json: str, settings: dict[str, Any]) -> int:
    """The whole encode stage in this process: vectors that it made."""
    from pydantic import TypeAdapter

    from configs.models import EncoderConfig
    from storage.records import SplitDataset
    from storage.root import Root
    from tasks.encode import encode
    from tasks.encoders import identify

    config, root = TypeAdapter(EncoderConfig).validate_python(settings), Root(root_path)
    found = encode.fn(root, SplitDataset.model_validate_json(split_json), config, identify(config).fingerprint)
    root.close()
    return found.encoded


def split_stage(root_path: str, dataset: dict[str, Any]) -> str:
    """Everything before the encode stage, all items on the database side: the split's record as JSON."""
    from pydantic import TypeAdapter

    from configs.datasets import DatasetConfig
    from configs.models import SplitConfig, ValidateConfig
    from storage.root import Root
    from tasks.ingest import ingest, revision
    from tasks.split import split
    from tasks.validate import validate

    config, root = TypeAdapter(DatasetConfig).validate_python(dataset), Root(root_path)
    listed = ingest.fn(root, "measured", config, revision(config, root))
    record = split.fn(root, validate.fn(root, listed, ValidateConfig()), SplitConfig(mode="none"))
    root.close()
    return record.model_dump_json()


def _row(number: int, item: str, *, images: bool) -> dict[str, Any]:
    from storage.digests import content_digest

    content = Path(item).read_bytes() if images else item.encode()
    digest = content_digest(content)
    return {"item_id": number, "content_digest": digest, "text": None if images else item, "path": item if images else None}
