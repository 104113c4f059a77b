"""Helpers for tests of tar shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from indexmill.configs.datasets import WebDatasetConfig
from indexmill.storage.root import Root
from indexmill.tasks.sources import Item
from indexmill.tasks.sources.webdataset import WebDatasetSource
from tests.stage_inputs import set_mtime

END = bytes(2 * tarfile.BLOCKSIZE)
Member = tuple[str, bytes]


def make_jpeg(seed: int, side: int = 24) -> bytes:
    """Return a JPEG of seeded noise."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def make_member(name: str, content: bytes = b"", *, tar_format: int = tarfile.GNU_FORMAT, **fields: Any) -> bytes:
    """Return the header and the padded content of a member. `fields` replace those of the header, as in `size=10**10`."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    padding = bytes(-len(content) % tarfile.BLOCKSIZE)
    return header.tobuf(tar_format, "utf-8", "surrogateescape") + content + padding


def write_shard(path: Path, *members: bytes, end: bytes = END) -> Path:
    """Write members as a shard with an old modification time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(members) + end)
    return set_mtime(path)


def make_sample(name: str, seed: int, caption: str | None = None, fields: dict[str, Any] | None = None) -> bytes:
    """Return the members of one sample as img2dataset writes them."""
    members = make_member(f"{name}.jpg", make_jpeg(seed))
    if caption is not None:
        members += make_member(f"{name}.txt", caption.encode())
    return members + (make_member(f"{name}.json", json.dumps(fields).encode()) if fields is not None else b"")


def open_shards(root: Root, path: Path | str, *, relist: bool = False, **settings: Any) -> WebDatasetSource:
    config = WebDatasetConfig.model_validate({"source": "webdataset", "path": str(path), **settings})
    return WebDatasetSource(config, root, relist=relist)


def list_faults(items: Iterator[Item]) -> dict[str, str | None]:
    """Return the fault of every item by its key."""
    return {item.key: item.fault for item in items}
