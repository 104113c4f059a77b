"""The encode stage within whole builds: two modalities, never twice, precision, and vectors that cannot be searched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from indexmill.configs.encoders import OpenClipEncoderConfig
from indexmill.flows.cli.search import search_index
from indexmill.storage.device_profiles import load_device_profile
from indexmill.storage.digests import content_digest
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.manifests import Manifest
from indexmill.storage.records import SplitDataset
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.encoding import identify
from indexmill.tasks.encoding.device import get_device_name
from tests.conftest import Build
from tests.encoding.checkpoints import write_clip_folder
from tests.storage.embedding_parts import add_vectors

CLIP = ("encoder.kind=open-clip", "encoder.weights_sha256=null")
CAPTIONED = ("dataset.captions=text", *CLIP)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A setting: a tiny CLIP model with random weights."""
    return f"encoder.model=local-dir:{write_clip_folder(tmp_path_factory.mktemp('clip') / 'model')}"


@pytest.fixture
def captioned(pictures: Path) -> Path:
    """The digits, all but those of label 0 with a caption."""
    for path in sorted(pictures.rglob("*.png")):
        if path.parent.name != "0":
            path.with_suffix(".txt").write_text(f"the digit {path.parent.name}, drawing {path.stem}")
    return pictures


def live(root: Path) -> Manifest:
    return Snapshots(Root(root), "demo-images").read_manifest()


def stored(root: Path) -> dict[str, int]:
    """Store -> how many vectors it holds."""
    parts = (root / "embeddings").glob("*/part-*.parquet")
    return {part.parent.name: pq.read_metadata(part).num_rows for part in parts}


def test_images_and_their_captions_are_encoded_into_two_aligned_stores(build: Build, captioned: Path, clip: str, tmp_path: Path) -> None:
    """120 images and 108 captions; each way of asking is built from them with nothing encoded again."""
    first = build(captioned, *CAPTIONED, clip)
    assert sorted(stored(tmp_path / "root").values()) == [108, 120]
    assert (live(tmp_path / "root").index_modality, first["encoded"]) == ("image", 120)
    asked = {}
    for index_modality, query_modality in (("image", "text"), ("text", "image"), ("text", "text")):
        summary = build(captioned, *CAPTIONED, clip, f"index.modality={index_modality}", f"evaluation.query_modality={query_modality}")
        asked[index_modality, query_modality] = summary["metrics"]["precision_at_1"]
        assert summary["encoded"] == 0
        told = json.loads((Path(summary["path"]) / "report" / "metrics.json").read_text())
        assert (told["index_modality"], told["query_modality"]) == (index_modality, query_modality)
        assert told["diff"]["items"] == {"added": 0, "removed": 0, "changed": 0, "relabelled": 0, "kept": 120}
        assert 0 <= told["metrics"]["text_to_image_recall_at_1"] <= told["metrics"]["text_to_image_recall_at_10"] <= 1
        assert told["metrics"]["image_to_text_median_rank"] >= 1
    manifest = live(tmp_path / "root")
    assert manifest.index_modality == "text"
    assert manifest.items == 108
    # A caption names its digit, so a text model of random weights still finds its like among texts, if not among images.
    assert asked["text", "text"] > 0.5
    table = Snapshots(Root(tmp_path / "root"), "demo-images").get_path(manifest.snapshot_id) / "items.parquet"
    items = {row["item_id"]: row for row in pq.read_table(table).to_pylist()}
    assert len(items) == 120
    answer = search_index(str(tmp_path / "root"), "demo-images", text="the digit 7, drawing 0007", image=None, k=3)
    assert all(items[row["item_id"]]["text"] for row in answer["results"])


def test_asking_for_captions_that_are_not_there_is_refused(build: Build, pictures: Path, clip: str) -> None:
    """Before anything is trained."""
    with pytest.raises(InputError, match=r"no vectors of texts"):
        build(pictures, *CLIP, clip, "index.modality=text")


def test_a_second_pipeline_over_overlapping_items_encodes_only_its_own(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Labels 0 to 6 by one pipeline, 3 to 9 by another of another name, folder and file names: 36 new contents, then none."""
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    for label in ("7", "8", "9"):
        shutil.rmtree(pictures / label)
    for label in ("0", "1", "2"):
        shutil.rmtree(other / label)
    for path in list(other.rglob("*.png")):
        path.rename(path.with_name(f"copy-of-{path.name}"))
    assert build(pictures)["encoded"] == 84
    second = build(other, "name=another")
    assert (second["encoded"], second["reused"]) == (36, 48)
    assert build(pictures, "evaluation.k=[1]")["encoded"] == 0


def test_auto_precision_says_what_it_rests_on(build: Build, pictures: Path, tmp_path: Path) -> None:
    """The check on the user's own items is in the manifest, the device's experience is kept, and the query encoder is the same."""
    summary = build(pictures, "encoder.precision=auto")
    root = Root(tmp_path / "root")
    manifest = live(root.path)
    model = next((root.path / "encoders").iterdir()).name
    known = load_device_profile(root, model, "image", get_device_name())
    assert known.precision == manifest.encoder["precision"] == summary["precision"]
    assert known.rates.keys() == {known.precision}
    assert known.peak_bytes > 10**8
    if known.precision != "float32":
        check = manifest.encoder["precision_check"]
        assert check["passes"]
        assert check["items"] == 120
        assert check["mean_cosine"] >= 0.999
        assert check["overlap_at_10"] >= 0.95
    image = next(pictures.rglob("*.png"))
    answer = search_index(str(root.path), "demo-images", text=None, image=image, k=1)
    assert answer["results"][0]["path"] == str(image)
    assert answer["results"][0]["score"] > 0.999


def test_a_precision_that_fell_short_is_said_and_not_taken(build: Build, pictures: Path, tmp_path: Path, clip: str) -> None:
    """What is known of the device says that bfloat16 failed: float32 it is, and the manifest says why."""
    build(pictures, "encoder.precision=auto", *CLIP, clip)
    [path] = (tmp_path / "root" / "encoders").rglob("*.json")
    known = json.loads(path.read_text())
    check = {"tried": "bfloat16", "items": 256, "mean_cosine": 0.99, "overlap_at_10": 0.9, "passes": False}
    path.write_text(json.dumps(known | {"precision": "float32", "check": check}))
    Image.new("RGB", (30, 30), "red").save(pictures / "1" / "red.png")
    build(pictures, "encoder.precision=auto", *CLIP, clip)
    manifest = live(tmp_path / "root")
    assert manifest.encoder["precision"] == "float32"
    assert manifest.encoder["precision_check"]["mean_cosine"] == 0.99


def bright(folder: Path) -> Path:
    """A CLIP model whose first layer overflows float16 on a white picture, and on no grey one."""
    import torch
    from safetensors.torch import load_file, save_file

    write_clip_folder(folder)
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.conv1.weight"] = torch.full_like(weights["visual.conv1.weight"], 300)
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


def test_items_whose_vector_cannot_be_searched_are_rejected_with_their_reason(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Two white pictures overflow: they are in rejects.parquet and not in the index, and are not encoded again the next night."""
    for path in pictures.rglob("*.png"):
        grey = int(np.asarray(Image.open(path)).mean())
        Image.new("RGB", (32, 32), (100 + grey % 40, 110, 100)).save(path)
        Image.effect_noise((32, 32), 20).convert("RGB").save(path)
    for name in ("1/white.png", "2/white.png"):
        Image.new("RGB", (32 + int(name[0]), 32), "white").save(pictures / name)
    settings = (*CLIP, f"encoder.model=local-dir:{bright(tmp_path / 'model')}", "encoder.precision=float16")
    first = build(pictures, *settings)
    manifest = live(tmp_path / "root")
    rejects = pq.read_table(Path(first["path"]) / "rejects.parquet").to_pylist()
    assert [(row["key"], row["reason"]) for row in sorted(rejects, key=lambda row: row["key"])] == [
        ("1/white.png", "not_finite"),
        ("2/white.png", "not_finite"),
    ]
    assert (first["rejected"], manifest.rejected, manifest.items) == (2, 2, 120)
    assert "white.png" not in str(pq.read_table(Path(first["path"]) / "items.parquet")["key"].to_pylist())
    Image.effect_noise((40, 40), 20).convert("RGB").save(pictures / "1" / "new.png")
    assert build(pictures, *settings)["encoded"] == 1
    with pytest.raises(InputError, match=r"not_finite 2"):
        build(pictures, *settings, "validate.max_reject_fraction=0.01", root=tmp_path / "root")


def test_a_lost_process_is_replaced_and_its_shard_encoded_again(build: Build, pictures: Path, tmp_path: Path) -> None:
    """SIGTERM to the encoding process at its first progress: Prefect tries the shard again, and nothing is missing."""
    from indexmill.tasks.encoding import process

    told: list[int] = []
    ask = process.EncoderProcess._run_job

    def deadly(self: process.EncoderProcess, job: Any, advance: Any) -> Any:
        def counted(items: int) -> None:
            told.append(items)
            if len(told) == 1:
                self._process.terminate()
            advance(items)

        return ask(self, job, counted)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.EncoderProcess, "_run_job", deadly)
        summary = build(pictures)
    assert summary["encoded"] == 120
    assert sum(stored(tmp_path / "root").values()) == 120
    assert len(EmbeddingStore(Root(tmp_path / "root"), live(tmp_path / "root").fingerprint).list_parts()) == 1


def test_one_new_item_among_a_hundred_thousand_is_encoded_alone(server: str, root: Root, clip: str) -> None:
    """99,999 contents are in the store: one shard of one row is planned, and the store grows by one part of one row."""
    from indexmill.tasks.encode import encode
    from indexmill.tasks.encoding.process import EncoderProcess

    count = 100_000
    texts = [f"text {number}" for number in range(count)]
    digests = [content_digest(text.encode()) for text in texts]
    columns = {"item_id": range(1, count + 1), "key": texts, "label": [""] * count, "text": texts, "path": [None] * count}
    columns |= {"content_digest": digests, "side": ["database"] * count, "leak": [False] * count}
    table = root.dataset("many", "split", "d") / "items.parquet"
    table.parent.mkdir(parents=True)
    pl.DataFrame(columns, schema_overrides={"path": pl.String}).write_parquet(table)
    ref = root.make_ref(table)
    split = SplitDataset(
        digest="d", files=(ref,), name="many", modality="text", image_root=None, labeled=False, content="c", database=count, query=0, labels=0,
        groups=count, conflicts=0, leaks=0, table=ref, by_label=ref, pairs=None,
    )  # fmt: skip
    config = OpenClipEncoderConfig(kind="open-clip", model=clip.removeprefix("encoder.model="), precision="float32")
    identity = identify(config)
    store = EmbeddingStore(root, identity.for_store("text", "float32").fingerprint)
    add_vectors(store, list(columns["item_id"])[:-1], digests[:-1], np.ones((count - 1, 32), np.float32))
    found = encode(root, EncoderProcess(), split, config, identity, 0.0)
    assert (found.encoded, found.reused, found.database) == (1, count - 1, count)
    assert [pq.read_metadata(path).num_rows for path in store.list_parts()] == [count - 1, 1]
    assert pq.read_table(store.list_parts()[1])["content_digest"].to_pylist() == digests[-1:]


def test_weights_of_another_architecture_cost_no_reading(build: Build, pictures: Path, tmp_path: Path) -> None:
    """The model is tried before the first item is listed."""
    wrong = tmp_path / "wrong"
    write_clip_folder(wrong)
    config = json.loads((wrong / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 128
    (wrong / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the checkpoint is not one of"):
        build(pictures, *CLIP, f"encoder.model=local-dir:{wrong}")
    assert not (tmp_path / "root" / "datasets").exists()
