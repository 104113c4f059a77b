"""Data sets for the fake hub, and sources that read them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import close_session, constants
from PIL import Image

from indexmill.configs.datasets import HuggingFaceDatasetConfig
from indexmill.storage.root import Root
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.huggingface import HuggingFaceSource
from tests.sources.fake_hub import FakeHub

FAST_RETRY = RetryPolicy(attempts=3, first_wait_s=0.01, max_wait_s=0.05, timeout_s=30)


def make_png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def make_jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (0, shade, 0)).save(buffer, "JPEG", quality=40)
    return buffer.getvalue()


IMAGES = [make_jpeg(10), make_png(20), make_jpeg(30), make_png(40)]


def make_image_parquet(folder: Path) -> bytes:
    """Return a table of images, class labels and captions as `push_to_hub` writes it."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "caption": datasets.Value("string")}
    )
    rows = {
        "image": [{"bytes": content, "path": f"{number}.jpg"} for number, content in enumerate(IMAGES)],
        "label": [0, 1, 0, -1],
        "caption": ["a cat", "a dog", None, "who knows"],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / "pictures.parquet"))
    return (folder / "pictures.parquet").read_bytes()


def make_text_parquet(*texts: str) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"sentence": list(texts), "topic": ["news"] * len(texts), "number": list(range(len(texts)))}), buffer)
    return buffer.getvalue()


@contextmanager
def open_fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """Start a fake hub with three data sets and point the real libraries and their cache to it and to tmp_path."""
    hub = FakeHub()
    point_libraries_to(hub.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    hub.datasets["ours/pictures"] = {"README.md": b"# Pictures\n", "data/train-00000-of-00001.parquet": make_image_parquet(tmp_path)}
    hub.datasets["ours/texts"] = {
        "README.md": b"# Texts\n",
        "data/train-00000-of-00001.parquet": make_text_parquet("one", "two", "three"),
        "data/test-00000-of-00001.parquet": make_text_parquet("four"),
    }
    hub.datasets["ours/folders"] = {f"train/{name}/{number}.png": make_png(number) for number, name in enumerate(["oak", "elm"])}
    try:
        yield hub
    finally:
        hub.close()
        close_session()


def point_libraries_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    close_session()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setenv("HF_TOKEN", "")


def make_image_source(root: Root, **changes: object) -> HuggingFaceSource:
    return make_source(
        root, **{"id": "ours/pictures", "image_column": "image", "label_column": "label", "text_column": "caption"} | changes
    )


def make_text_source(root: Root, **changes: object) -> HuggingFaceSource:
    return make_source(root, **{"id": "ours/texts", "text_column": "sentence"} | changes)


def make_source(root: Root, **config: object) -> HuggingFaceSource:
    return HuggingFaceSource(HuggingFaceDatasetConfig.model_validate({"source": "huggingface"} | config), root, FAST_RETRY)


def read_images(source: HuggingFaceSource) -> list[bytes]:
    items = list(source.items())
    assert source.image_root is not None
    return [(source.image_root / str(item.path)).read_bytes() for item in items]
