"""Encoders of one's own: what the protocol asks for, batches, memory, bad vectors, precision, prompts and identity."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from indexmill.configs.encoders import PythonEncoderConfig
from indexmill.storage.contents import read_content_digest
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.tasks.encoding import identify, load_encoder, worker
from indexmill.tasks.encoding.base import SupportsTexts, encode_items
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ComparePrecision, LoadModel, ModelSpec
from indexmill.tasks.encoding.row_batches import encode_rows
from indexmill.tasks.extensions.protocols import PythonEncoder
from indexmill.tasks.progress import ignore_progress
from tests.extensions.packages import DOCS, install_package, read_example

CODE = """
import numpy as np

BATCHES = []

class Letters:
    '''Counts of the letters a to h.'''

    def __init__(self, dim=8, limit=10**9, fault=None, weights=()):
        self.dim, self.limit, self.fault, self.weights = dim, limit, fault, weights

    def encode_texts(self, texts):
        BATCHES.append(list(texts))
        if len(texts) > self.limit:
            raise MemoryError
        if self.fault and self.fault in texts:
            raise ValueError(f"cannot read {self.fault}")
        if self.fault == "network":
            raise ConnectionResetError("try later")
        vectors = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], float)
        vectors[[text == "nan" for text in texts]] = np.nan
        return vectors

class Pictures(Letters):
    '''The mean color, in both precisions.'''

    def __init__(self, precision, **options):
        super().__init__(dim=3, **options)
        self.precision = precision

    def preprocess_image(self, image):
        if image.size == (1, 1):
            raise OSError("too small")
        return np.asarray(image.resize((4, 4)), np.float32)

    def encode_images(self, inputs):
        vectors = np.stack(inputs).mean(axis=(1, 2))
        return vectors if self.precision == "float32" else np.round(vectors / 16) * 16

    def encode_texts(self, texts):
        return super().encode_texts(texts)[:, :3]

class Rounded(Letters):
    def __init__(self, precision):
        super().__init__()
        self.precision = precision

    def encode_texts(self, texts):
        vectors = super().encode_texts(texts)
        return vectors if self.precision == "float32" else np.round(vectors / 4) * 4

class Wrong(Letters):
    def encode_texts(self, texts):
        return {"rows": np.zeros((len(texts) - 1, 8)), "columns": np.zeros((len(texts), 7)), "texts": ["x"] * len(texts),
                "ragged": [[1.0], [1.0, 2.0]]}[self.fault]

class Endless(Letters):
    def __init__(self):
        self.dim = "8"
"""


@pytest.fixture
def package(site: Path) -> Iterator[Path]:
    yield install_package(site, "acme-tools", {"code": CODE})


def make_config(name: str = "Letters", **settings: Any) -> PythonEncoderConfig:
    return PythonEncoderConfig(**{"kind": "python", "target": f"acme_tools.code:{name}", "modalities": ["text"], **settings})


def list_batches() -> list[list[str]]:
    import acme_tools.code  # type: ignore[import-not-found]

    return list(acme_tools.code.BATCHES)


@pytest.mark.usefixtures("package")
def test_vectors_are_those_of_the_package_at_unit_length() -> None:
    """Batches of similar length, in the order of the texts; or as they are with normalize: false."""
    texts = ["a", "abc", "bb", "hhhh", "abcdefgh"]
    expected = np.array([[text.count(letter) for letter in "abcdefgh"] for text in texts], np.float32)
    encoder = load_encoder(make_config(batch_size=2, normalize=False))
    encoded = encode_items(encoder, texts)
    assert encoded.vectors.tolist() == expected.tolist()
    assert encoded.vectors.dtype == np.float32
    assert not encoded.truncated.any()
    assert list_batches() == [["abcdefgh", "hhhh"], ["abc", "bb"], ["a"]]
    normalized = encode_items(load_encoder(make_config()), texts).vectors
    assert normalized == pytest.approx(expected / np.linalg.norm(expected, axis=1, keepdims=True), abs=1e-6)


@pytest.mark.usefixtures("package")
def test_the_batch_is_halved_when_memory_runs_out() -> None:
    """From 32 to the largest that fits, for good."""
    encoder = load_encoder(make_config(options={"limit": 10}))
    assert encode_items(encoder, ["a"] * 40).vectors[:, 0].tolist() == [1] * 40
    assert [len(batch) for batch in list_batches()] == [32, 16, 8, 8, 8, 8, 8]
    assert encoder.batch_size == 8


def make_rows(texts: list[str]) -> Iterator[dict[str, Any]]:
    return iter([{"item_id": number, "content_digest": str(number), "text": text, "path": None} for number, text in enumerate(texts)])


@pytest.mark.usefixtures("package")
def test_bad_vectors_and_failing_items_are_rejected_one_by_one() -> None:
    """NaN, zero, and a text that the encoder cannot read, with its line; the others have their vectors."""
    texts = ["a", "nan", "xyz", "bad", "b"]
    (window,) = encode_rows(load_encoder(make_config(options={"fault": "bad"})), make_rows(texts), None, ignore_progress)
    line = CODE[: CODE.index("            raise ValueError")].count("\n") + 1
    assert window.issues == {
        1: ("not_finite", "the encoder returned an infinite number or NaN"),
        2: ("zero_vector", "the encoder returned only zeros, which have no direction"),
        3: ("encoder_error", f"ValueError: cannot read bad (code.py, line {line}, in encode_texts)"),
    }
    assert window.encoded.vectors[[0, 4]].tolist() == np.eye(8)[:2].tolist()


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("fault", "got"), [
    ("rows", r"float64 of shape \(1, 8\)"), ("columns", r"float64 of shape \(2, 7\)"),
    ("texts", "class list"), ("ragged", "class list"),
])  # fmt: skip
def test_anything_but_one_vector_per_text_is_an_error(fault: str, got: str) -> None:
    """With the shape that was expected."""
    encoder = load_encoder(make_config("Wrong", options={"fault": fault}))
    with pytest.raises(InputError, match=got) as failed:
        encode_items(encoder, ["a", "b"])
    assert "(2, 8)" in failed.value.expected


@pytest.mark.usefixtures("package")
def test_a_service_that_cannot_be_reached_is_no_items_fault() -> None:
    """It is retried, instead of rejecting every text."""
    encoder = load_encoder(make_config(options={"fault": "network"}))
    with pytest.raises(SourceUnreachable, match="try later"):
        list(encode_rows(encoder, make_rows(["a", "b"]), None, ignore_progress))
    assert len(list_batches()) == 1


@pytest.mark.usefixtures("package")
def test_images_and_texts_of_one_encoder(tmp_path: Path) -> None:
    """An image that cannot be prepared is rejected alone; the modalities are those of the config, images first."""
    config = make_config("Pictures", modalities=["text", "image"], normalize=False)
    assert config.modalities == identify(config).modalities == ("image", "text")
    encoder = load_encoder(config)
    assert isinstance(encoder, SupportsTexts)
    assert encode_items(encoder, [Image.new("RGB", (9, 5), (10, 20, 30))]).vectors.tolist() == [[10, 20, 30]]
    assert encode_items(encoder.text_encoder, ["abb"]).vectors.tolist() == [[1, 2, 0]]
    rows = []
    for number, size in enumerate([(8, 8), (1, 1), (5, 5)]):
        Image.new("RGB", size, (number, 0, 9)).save(tmp_path / f"{number}.png")
        digest = read_content_digest(tmp_path, f"{number}.png")
        rows.append({"item_id": number, "content_digest": digest, "text": None, "path": f"{number}.png"})
    (window,) = encode_rows(encoder, iter(rows), str(tmp_path), ignore_progress)
    assert list(window.issues) == [1]
    assert "OSError: too small" in window.issues[1][1]
    assert window.encoded.vectors[[0, 2]].tolist() == [[0, 0, 9], [2, 0, 9]]


@pytest.mark.usefixtures("package")
def test_the_encoder_must_have_what_the_config_says() -> None:
    """Methods of its modalities, and the length of its vectors."""
    with pytest.raises(InputError, match="the target is no encoder") as failed:
        load_encoder(make_config(modalities=["image"]))
    assert failed.value.got == "the class Letters without preprocess_image, encode_images"
    with pytest.raises(InputError, match="does not say how long its vectors are") as failed:
        load_encoder(make_config("Endless"))
    assert failed.value.got == "dim = '8'"
    with pytest.raises(InputError, match="at most 8"):
        load_encoder(make_config(dimensions=9))
    with pytest.raises(InputError, match="no parameter `precision`"):
        load_encoder(make_config(), "bfloat16")
    with pytest.raises(ValidationError, match=r"\[image, text\]"):
        make_config(modalities=["text", "text"])


@pytest.mark.usefixtures("package")
def test_a_prompt_precedes_every_text_of_its_role() -> None:
    """Queries and documents apart; an encoder of images takes none."""
    config = make_config(query_prompt="b ", normalize=False)
    assert encode_items(load_encoder(config, role="query"), ["a"]).vectors[0, :2].tolist() == [1, 1]
    assert encode_items(load_encoder(config), ["a"]).vectors[0, :2].tolist() == [1, 0]
    assert (
        identify(config).for_role("query").fingerprint != identify(config).fingerprint == identify(make_config(normalize=False)).fingerprint
    )
    with pytest.raises(InputError, match="takes images only"):
        identify(make_config("Pictures", modalities=["image"], document_prompt="b "))


def test_a_config_with_options_is_a_key() -> None:
    """A worker of a cluster remembers batch sizes by the model, and options may hold lists."""
    specs = {ModelSpec(make_config(options={"layers": [1, 2]}), "float32", "text"): 8}
    assert specs[ModelSpec(make_config(options={"layers": [1, 2]}), "float32", "text")] == 8
    assert ModelSpec(make_config(options={"layers": [1, 3]}), "float32", "text") not in specs


def test_the_fingerprint_covers_version_options_and_weights(package: Path, tmp_path: Path) -> None:
    """And not where the weights are, nor how large a batch is."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")

    def fingerprint(**settings: Any) -> str:
        return identify(make_config(**{"weights": [str(weights)], **settings})).fingerprint

    original = fingerprint()
    (tmp_path / "copy").mkdir()
    assert fingerprint(weights=[shutil.copy(weights, tmp_path / "copy")], batch_size=3) == original
    others = {
        fingerprint(options={"dim": 8}),
        fingerprint(target="acme_tools.code:Pictures"),
        fingerprint(weights=[str(tmp_path / "copy")] * 2),
    }
    weights.write_bytes(b"2")
    others.add(fingerprint())
    weights.write_bytes(b"1")
    assert fingerprint() == original
    (package / "acme_tools-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tools\nVersion: 1.1\n")
    others.add(fingerprint())
    assert len({original} | others) == 6
    with pytest.raises(InputError, match="unexpected model weights"):
        fingerprint(weights_sha256="a" * 64)
    with pytest.raises(InputError, match=r"encoder\.weights = nowhere"):
        fingerprint(weights=["nowhere"])
    assert load_encoder(make_config(weights=[str(weights)]))._model.weights == [weights]  # type: ignore[attr-defined]


@pytest.fixture
def sample(tmp_path: Path) -> str:
    rows = [{"item_id": n, "content_digest": f"{n:02d}", "text": "abc" * n + "d", "path": None} for n in range(20)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "sample.parquet")
    return str(tmp_path / "sample.parquet")


@pytest.mark.usefixtures("package")
def test_the_encoding_process_loads_it_and_reports_its_errors(sample: str) -> None:
    """As Indexmill's errors, with their parts. An encoder of one precision has no other one to be compared with."""
    with EncoderProcess() as process:
        with pytest.raises(InputError, match="unexpected keyword argument 'dimm'") as failed:
            process.check_model(ModelSpec(make_config(options={"dimm": 3}), "float32", "text"))
        assert failed.value.next_step == "correct encoder.options"
        assert process._run_job(LoadModel(ModelSpec(make_config(options={"dim": 8}), "float32", "text")), ignore_progress)._asdict() == {}
        comparison = process.compare_precisions(ComparePrecision(ModelSpec(make_config(), "float32", "text"), sample, None))
    assert comparison.tried == "float32"
    assert comparison.passes


@pytest.mark.usefixtures("package")
def test_an_encoder_with_precisions_is_compared_with_itself(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it makes of the precision; this one rounds to multiples of four, and fails."""
    monkeypatch.setattr(worker, "find_fastest_precision", lambda: "bfloat16")
    for name, tried in (("Rounded", "bfloat16"), ("Letters", "float32")):
        job = ComparePrecision(ModelSpec(make_config(name), "float32", "text"), sample, None)
        comparison = worker._compare_precisions(job, worker.ModelCache())
        assert comparison.tried == tried
        assert comparison.passes == (tried == "float32")
        assert comparison.mean_cosine < 0.999 or comparison.passes


def test_the_guide_prints_the_protocol_and_its_example_fits(site: Path) -> None:
    """At most 30 lines. The example encodes, and imports nothing of Indexmill."""
    protocol = inspect.getsource(PythonEncoder)
    assert protocol.rstrip() in (DOCS / "encoders.md").read_text(encoding="utf-8")
    assert len(protocol.splitlines()) <= 30
    example = read_example("acme_search/encoder.py")
    assert "indexmill" not in example
    install_package(site, "acme-search", {"encoder": example})
    config = make_config(target="acme_search.encoder:HashedWords", options={"dim": 512})
    vectors = encode_items(load_encoder(config), ["red shoes", "Shoes red", "a lamp"]).vectors
    assert vectors.shape == (3, 512)
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert vectors[0] @ vectors[2] < 0.5
