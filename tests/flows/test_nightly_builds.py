"""Builds on successive nights: which training and shards are reused, and how the manifest explains it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.conftest import Build
from tests.flows.built import read_manifest

# Shards of about 30 items (1,280 float32 numbers and an id), and a training that stays valid with a few new images.
SETTINGS = [
    "index.factory=IVF4,Flat", "index.nprobe=4", "index.shard_bytes=120000", "index.rerank=fp16",
    "index.drift={max_changed: 0.2, max_imbalance: 99, max_error_rise: 99, max_recall_drop: 1}",
]  # fmt: skip


@pytest.mark.slow
def test_a_few_new_images_keep_training_and_untouched_shards(quick_build: Build, pictures: Path, tmp_path: Path) -> None:
    """Six images arrive: one training, most shards are the same files; then half of all images go, and the index is trained again."""
    late = sorted(pictures.rglob("*.png"))[::20]
    aside = tmp_path / "late"
    for path in late:
        (aside / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(aside / path.parent.name / path.name)
    root = tmp_path / "root"
    quick_build(pictures, *SETTINGS)
    first = read_manifest(root)
    assert first.training["reason"] == "the first of this index"
    shutil.copytree(aside, pictures, dirs_exist_ok=True)
    quick_build(pictures, *SETTINGS)
    second = read_manifest(root)
    assert second.training["digest"] == first.training["digest"]
    assert second.training["reason"].startswith("reused: changed 0.0")
    before, after = ({shard.key for shard in manifest.shards if shard.side == "database"} for manifest in (first, second))
    assert len(before) == 4
    assert len(before & after) >= 3
    for label in "01234":
        shutil.rmtree(pictures / label)
    quick_build(pictures, *SETTINGS)
    third = read_manifest(root)
    assert third.training["reason"].startswith("retrained: changed 0.")
    assert third.training["signals"]["changed"] > 0.2
    Snapshots(Root(root), "demo-images").verify(third)


@pytest.mark.slow
def test_a_snapshot_has_vectors_beside_its_shards_and_index_infos(quick_build: Build, digits: Path, tmp_path: Path) -> None:
    """Every id of the items table has one vector, and the sizes are those of the files."""
    folder = Path(quick_build(digits, *SETTINGS)["path"])
    ids = [np.load(path) for path in sorted(folder.glob("*.ids.npy"))]
    rows = [np.load(path) for path in sorted(folder.glob("*.vectors.npy"))]
    assert sorted(np.concatenate(ids).tolist()) == sorted(pq.read_table(folder / "items.parquet")["item_id"].to_pylist())
    assert all(len(shard_ids) == len(vectors) and vectors.dtype == np.float16 for shard_ids, vectors in zip(ids, rows, strict=True))
    np.testing.assert_allclose(np.linalg.norm(np.concatenate(rows).astype(np.float32), axis=1), 1, atol=1e-3)
    infos = json.loads((folder / "index_infos.json").read_text())
    assert infos["index_path"] == sorted(path.name for path in folder.glob("*.faiss"))
    assert infos["size in bytes"] == sum(path.stat().st_size for path in folder.glob("*.faiss"))
    assert (infos["nb vectors"], infos["index_param"]) == (120, "nprobe=4")
