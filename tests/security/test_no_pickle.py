"""No pickle is read, whoever put it there: by what the code says, and by files that would do harm."""

from __future__ import annotations

import ast
import base64
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from prefect._internal.result_records import ResultRecord
from prefect.serializers import JSONSerializer
from tests.flows.test_policy_at_work import stage

from indexmill.configs.encoders import EfficientNetLiteEncoderConfig, SentenceTransformersEncoderConfig
from indexmill.flows.result_store import is_record_json
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage.errors import InputError
from indexmill.storage.records import Record
from indexmill.storage.root import Root
from indexmill.tasks.encoding import load_encoder
from indexmill.tasks.evaluation.retrieval import _read_cached_ground_truth
from tests.encoding.checkpoints import write_malicious_pickle, write_sentence_transformer_folder

REPOSITORY = Path(__file__).parents[2]
SHIPPED = [path for folder in ("flows", "serve", "tasks", "configs", "storage") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HARMLESS = {"UnpicklingError"}  # an error's name


def unpickling(code: str) -> Iterator[str]:
    """What in this code reads a pickle, or runs text as a program."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                yield from (one.name for one in names if one.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in MODULES:
                yield from (one.name for one in names if one.name not in HARMLESS)
            case ast.Call():
                yield from _called(node)


def _called(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if named.get("allow_pickle", "False") != "False" or named.get("trust_remote_code", "False") != "False":
        yield name
    if named.get("weights_only", "True") != "True" or (name == "torch.load" and "weights_only" not in named):
        yield name
    if name in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"} or name.endswith("read_pickle"):
        yield name


def test_shipping_code_reads_no_pickle() -> None:
    """No module of pickles, no loader without its guard, no code made of text."""
    assert len(SHIPPED) > 200
    assert {path.name: found for path in SHIPPED if (found := list(unpickling(path.read_text(encoding="utf-8"))))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "import dill as d", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)", "load_state_dict(p, weights_only=some)", "pl.read_pickle(p)", "yaml.load(t)", "eval(t)",
        "Model(p, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_what_is_looked_for_would_be_found(code: str) -> None:
    """Each of these lines in shipping code would make the test above fail."""
    assert list(unpickling(code))


def attack(witness: Path) -> Any:
    """Something that makes `witness` when it is unpickled."""

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return os.mkdir, (str(witness),)

    return Attack()


def as_pickle(witness: Path) -> dict[str, Any]:
    return {"metadata": {"serializer": {"type": "pickle"}}, "result": base64.encodebytes(cloudpickle.dumps(attack(witness))).decode()}


def as_no_serializer(witness: Path) -> dict[str, Any]:
    return {"metadata": {}, "result": as_pickle(witness)["result"]}


def as_class_in_json(witness: Path) -> dict[str, Any]:
    result = {"__class__": "pathlib.Path.mkdir", "data": {"self": str(witness)}}
    return {"metadata": {"serializer": JSONSerializer().model_dump(mode="json")}, "result": json.dumps(result)}


@pytest.mark.parametrize("planted", [as_pickle, as_no_serializer, as_class_in_json])
def test_a_planted_record_is_not_read_and_the_stage_is_done(planted: Any, server: str, root: Root, tmp_path: Path) -> None:
    """A file under the very key of a stage: Prefect would read it as the file asks; here it counts as none and is written anew."""
    done: list[int] = []

    def body() -> Record:
        done.append(1)
        return Record(digest="d", files=())

    task, inputs = stage("split", body)
    StageRunner(root).run(task, *inputs.values())
    (kept,) = root.cache.iterdir()
    sound = kept.read_bytes()
    assert is_record_json(sound)
    content = json.dumps(planted(tmp_path / "witness"))
    kept.write_text(content)
    StageRunner(root).run(task, *inputs.values())
    assert len(done) == 2
    assert not (tmp_path / "witness").exists()
    assert is_record_json(kept.read_bytes())
    if planted is not as_class_in_json:
        ResultRecord.deserialize(content.encode())  # what Prefect would have done
        assert (tmp_path / "witness").exists()


def test_arrays_of_objects_are_not_read(tmp_path: Path) -> None:
    """Ground truth whose file holds a pickled object counts as none."""
    path = tmp_path / "truth.npz"
    np.savez(path, scores=np.array([attack(tmp_path / "witness")], object), ids=np.zeros(1), key=np.array("k"))
    assert _read_cached_ground_truth(path, "k") is None
    assert not (tmp_path / "witness").exists()
    np.load(path, allow_pickle=True)["scores"]
    assert (tmp_path / "witness").exists()


def test_a_checkpoint_that_runs_something_is_refused_by_every_encoder(tmp_path: Path) -> None:
    """EfficientNet-Lite's file and a sentence model's; those of open_clip and timm are tried in their own tests."""
    path = write_malicious_pickle(tmp_path / "weights.pth", tmp_path / "witness")
    with pytest.raises(InputError, match="not EfficientNet-Lite0"):
        load_encoder(EfficientNetLiteEncoderConfig(kind="efficientnet-lite", model=str(path)))
    folder = write_sentence_transformer_folder(tmp_path / "sentences")
    (weights,) = folder.rglob("model.safetensors")
    write_malicious_pickle(weights.with_name("pytorch_model.bin"), tmp_path / "witness")
    weights.unlink()
    with pytest.raises(Exception, match=r"weights_only|Weights only|pickle"):
        load_encoder(SentenceTransformersEncoderConfig(kind="sentence-transformers", model=str(folder)))
    assert not (tmp_path / "witness").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "witness").exists()
