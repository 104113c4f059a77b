"""The encode stage within whole builds: two modalities, reuse, precision, and vectors that cannot be searched."""

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
from indexmill.serve import open_index
from indexmill.storage.device_profiles import load_device_profile
from indexmill.storage.digests import content_digest
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.onnx_encoders import OnnxImageEncoder, OnnxTextEncoder
from tests.conftest import QUICK, Build
from tests.encoding.checkpoints import write_clip_folder
from tests.flows.built import read_manifest
from tests.serve.test_search_command import check_search_without_torch
from tests.storage.embedding_parts import add_vectors

CLIP = ("encoder.kind=open-clip", "encoder.weights_sha256=null")
CAPTIONED = ("dataset.captions=text", *CLIP)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A setting: a tiny CLIP model with random weights."""
    return f"encoder.model=local-dir:{write_clip_folder(tmp_path_factory.mktemp('clip') / 'model')}"


def add_captions(pictures: Path) -> Path:
    """Write a caption beside every image but those of label 0."""
    for path in sorted(pictures.rglob("*.png")):
        if path.parent.name != "0":
            path.with_suffix(".txt").write_text(f"the digit {path.parent.name}, drawing {path.stem}")
    return pictures


def count_vectors(root: Path) -> dict[str, int]:
    """Store -> number of vectors in it."""
    parts = (root / "embeddings").glob("*/part-*.parquet")
    return {part.parent.name: pq.read_metadata(part).num_rows for part in parts}


@pytest.fixture(scope="module")
def captioned_root(server: str, digits: Path, clip: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The captioned digits, and a root with a build of them: 120 vectors of images and 108 of captions."""
    from indexmill.flows.build_index import build_index

    folder = tmp_path_factory.mktemp("captioned")
    pictures = add_captions(Path(shutil.copytree(digits, folder / "pictures")))
    settings = [f"dataset.path={pictures}", *QUICK, "encoder.precision=float32", *CAPTIONED, clip]
    summary = build_index("demo-images", str(folder / "root"), settings)
    assert sorted(count_vectors(folder / "root").values()) == [108, 120]
    assert (read_manifest(folder / "root").index_modality, summary["encoded"]) == ("image", 120)
    return pictures, folder / "root"


@pytest.mark.parametrize(
    ("index_modality", "query_modality"),
    [
        ("image", "text"),
        pytest.param("text", "image", marks=pytest.mark.slow),
        pytest.param("text", "text", marks=pytest.mark.slow),
    ],
)
def test_images_and_captions_are_searched_from_two_aligned_stores(
    index_modality: str, query_modality: str, captioned_root: tuple[Path, Path], build: Build, clip: str, tmp_path: Path
) -> None:
    """Each pair of modalities is built from the vectors of images and captions, and nothing is encoded again.

    Both sides of the model were exported, and its exports encode the queries.
    """
    pictures, source = captioned_root
    root = Path(shutil.copytree(source, tmp_path / "root"))
    modalities = (f"index.modality={index_modality}", f"evaluation.query_modality={query_modality}")
    summary = build(pictures, *CAPTIONED, clip, *modalities)
    assert summary["encoded"] == 0
    metrics_file = json.loads((Path(summary["path"]) / "report" / "metrics.json").read_text())
    assert (metrics_file["index_modality"], metrics_file["query_modality"]) == (index_modality, query_modality)
    assert metrics_file["diff"]["items"] == {"added": 0, "removed": 0, "changed": 0, "relabeled": 0, "kept": 120}
    assert 0 <= metrics_file["metrics"]["text_to_image_recall_at_1"] <= metrics_file["metrics"]["text_to_image_recall_at_10"] <= 1
    assert metrics_file["metrics"]["image_to_text_median_rank"] >= 1
    manifest = read_manifest(root)
    assert (manifest.index_modality, manifest.items) == (index_modality, 108 if index_modality == "text" else 120)
    items = {row["item_id"]: row for row in pq.read_table(Path(summary["path"]) / "items.parquet").to_pylist()}
    assert len(items) == 120
    answer = search_index(str(root), "demo-images", text="the digit 7, drawing 0007", image=None, k=3)
    with open_index(root, "demo-images") as index:
        assert isinstance(index.encoder.load("text"), OnnxTextEncoder)
        assert isinstance(index.encoder.load("image"), OnnxImageEncoder)
        if index_modality == "image":
            path = sorted(pictures.rglob("*.png"))[40]
            (found,) = index.search(images=[path], k=1).results[0]
            assert (found.key, found.score > 0.9999) == (path.relative_to(pictures).as_posix(), True)
    if index_modality == "text":
        assert all(items[row["item_id"]]["text"] for row in answer["results"])
    if (index_modality, query_modality) == ("text", "text"):
        # A caption names its digit, so a text model of random weights still finds its like among texts, if not among images.
        assert summary["metrics"]["precision_at_1"] > 0.5


def test_an_exported_encoder_searches_images_without_torch(captioned_root: tuple[Path, Path], tmp_path: Path) -> None:
    """Of both sides, those of images resize and crop too."""
    pictures, root = captioned_root
    check_search_without_torch(root, tmp_path / "copy", "demo-images", image=str(sorted(pictures.rglob("*.png"))[40]))


def test_captions_that_do_not_exist_cannot_be_indexed(build: Build, pictures: Path, clip: str) -> None:
    """Refused before anything is trained."""
    with pytest.raises(InputError, match=r"no text embeddings"):
        build(pictures, *CLIP, clip, "index.modality=text", "dataset.limit=40")


@pytest.mark.slow
def test_a_second_pipeline_over_overlapping_items_encodes_only_its_own(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Labels 0 to 6 in one pipeline, 3 to 9 in one of another name, folder and file names: 36 new contents, then none."""
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


@pytest.mark.slow
def test_auto_precision_is_recorded_with_its_check(build: Build, pictures: Path, tmp_path: Path) -> None:
    """The check on the user's own items is in the manifest, the device's profile is saved, and queries are encoded alike."""
    summary = build(pictures, "encoder.precision=auto")
    root = Root(tmp_path / "root")
    manifest = read_manifest(root.path)
    model = next((root.path / "encoders").iterdir()).name
    profile = load_device_profile(root, model, "image", get_device_name())
    assert profile.precision == manifest.encoder["precision"] == summary["precision"]
    assert profile.rates.keys() == {profile.precision}
    assert profile.peak_bytes > 10**8
    if profile.precision != "float32":
        check = manifest.encoder["precision_check"]
        assert check["passes"]
        assert check["items"] == 120
        assert check["mean_cosine"] >= 0.999
        assert check["overlap_at_10"] >= 0.95
    image = next(pictures.rglob("*.png"))
    answer = search_index(str(root.path), "demo-images", text=None, image=image, k=1)
    assert answer["results"][0]["path"] == str(image)
    assert answer["results"][0]["score"] > 0.999


@pytest.mark.slow
def test_a_precision_that_failed_its_check_is_not_used(build: Build, pictures: Path, tmp_path: Path, clip: str) -> None:
    """The device profile says that bfloat16 failed: the build uses float32, and the manifest records why."""
    build(pictures, "encoder.precision=auto", *CLIP, clip)
    [path] = (tmp_path / "root" / "encoders").glob("*/*.json")  # those of exports are deeper
    profile = json.loads(path.read_text())
    check = {"tried": "bfloat16", "items": 256, "mean_cosine": 0.99, "overlap_at_10": 0.9, "passes": False}
    path.write_text(json.dumps(profile | {"precision": "float32", "check": check}))
    Image.new("RGB", (30, 30), "red").save(pictures / "1" / "red.png")
    build(pictures, "encoder.precision=auto", *CLIP, clip)
    manifest = read_manifest(tmp_path / "root")
    assert manifest.encoder["precision"] == "float32"
    assert manifest.encoder["precision_check"]["mean_cosine"] == 0.99


def write_overflowing_model(folder: Path) -> Path:
    """Write a CLIP model whose first layer overflows float16 on a white image, and on no gray one."""
    import torch
    from safetensors.torch import load_file, save_file

    write_clip_folder(folder)
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.conv1.weight"] = torch.full_like(weights["visual.conv1.weight"], 300)
    save_file(weights, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.slow
def test_items_whose_vector_cannot_be_searched_are_rejected_with_their_reason(build: Build, pictures: Path, tmp_path: Path) -> None:
    """Two white images overflow: they are in rejects.parquet and not in the index, and the next build does not encode them again."""
    for path in pictures.rglob("*.png"):
        gray = int(np.asarray(Image.open(path)).mean())
        Image.new("RGB", (32, 32), (100 + gray % 40, 110, 100)).save(path)
        Image.effect_noise((32, 32), 20).convert("RGB").save(path)
    for name in ("1/white.png", "2/white.png"):
        Image.new("RGB", (32 + int(name[0]), 32), "white").save(pictures / name)
    settings = (*CLIP, f"encoder.model=local-dir:{write_overflowing_model(tmp_path / 'model')}", "encoder.precision=float16")
    first = build(pictures, *settings)
    manifest = read_manifest(tmp_path / "root")
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


@pytest.mark.slow
def test_a_lost_process_is_replaced_and_its_chunk_encoded_again(build: Build, pictures: Path, tmp_path: Path) -> None:
    """SIGTERM to the encoding process at its first progress: Prefect tries the chunk again, and nothing is missing."""
    from indexmill.tasks.encoding import process

    advanced: list[int] = []
    run_job = process.EncoderProcess._run_job

    def terminate_once(self: process.EncoderProcess, job: Any, advance: Any) -> Any:
        def count(items: int) -> None:
            advanced.append(items)
            if len(advanced) == 1:
                self._process.terminate()
            advance(items)

        return run_job(self, job, count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process.EncoderProcess, "_run_job", terminate_once)
        summary = build(pictures)
    assert summary["encoded"] == 120
    assert sum(count_vectors(tmp_path / "root").values()) == 120
    assert len(EmbeddingStore(Root(tmp_path / "root"), read_manifest(tmp_path / "root").fingerprint).list_parts()) == 1


@pytest.mark.slow
def test_one_new_item_among_a_hundred_thousand_is_encoded_alone(server: str, root: Root, clip: str) -> None:
    """99,999 contents are in the store: one chunk of one row is planned, and the store grows by one part of one row."""
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
        digest="d", files=(ref,), name="many", modality="text", image_root=None, labeled=False, content="c",
        database=count, query=0, labels=0, groups=count, conflicts=0, leaks=0, table=ref, by_label=ref, pairs=None,
    )  # fmt: skip
    config = OpenClipEncoderConfig(kind="open-clip", model=clip.removeprefix("encoder.model="), precision="float32")
    identity = identify(config)
    store = EmbeddingStore(root, identity.for_store("text", "float32").fingerprint)
    add_vectors(store, list(columns["item_id"])[:-1], digests[:-1], np.ones((count - 1, 32), np.float32))
    embeddings = encode(root, EncoderProcess(), split, config, identity, 0.0)
    assert (embeddings.encoded, embeddings.reused, embeddings.database) == (1, count - 1, count)
    assert [pq.read_metadata(path).num_rows for path in store.list_parts()] == [count - 1, 1]
    assert pq.read_table(store.list_parts()[1])["content_digest"].to_pylist() == digests[-1:]


def test_weights_of_another_architecture_are_refused_before_the_source_is_read(build: Build, pictures: Path, tmp_path: Path) -> None:
    """The model is loaded before the first item is listed."""
    wrong = tmp_path / "wrong"
    write_clip_folder(wrong)
    config = json.loads((wrong / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 128
    (wrong / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the checkpoint does not fit"):
        build(pictures, *CLIP, f"encoder.model=local-dir:{wrong}")
    assert not (tmp_path / "root" / "datasets").exists()
