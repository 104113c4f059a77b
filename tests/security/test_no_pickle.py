"""No pickle is read: the code has no loader of pickles, and files that would do harm do none."""

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

from indexmill.configs.encoders import EfficientNetLiteEncoderConfig, SentenceTransformersEncoderConfig
from indexmill.flows.result_store import is_record_json
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage.errors import InputError
from indexmill.storage.records import Record
from indexmill.storage.root import Root
from indexmill.tasks.encoding import load_encoder
from indexmill.tasks.evaluation.ground_truth import _read_neighbors
from tests.encoding.checkpoints import write_malicious_pickle, write_sentence_transformer_folder
from tests.flows.test_stage_policy_with_prefect import replace_body

REPOSITORY = Path(__file__).parents[2]
SHIPPED = [path for folder in ("flows", "serve", "tasks", "configs", "storage") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HARMLESS = {"UnpicklingError"}  # the name of an error


def find_unpickling(code: str) -> Iterator[str]:
    """Yield what in this code reads a pickle or runs text as a program."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] in MODULES:
                yield from (alias.name for alias in names if alias.name not in HARMLESS)
            case ast.Call():
                yield from _find_unsafe_call(node)


def _find_unsafe_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if keywords.get("allow_pickle", "False") != "False" or keywords.get("trust_remote_code", "False") != "False":
        yield name
    if keywords.get("weights_only", "True") != "True" or (name == "torch.load" and "weights_only" not in keywords):
        yield name
    if name in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"} or name.endswith("read_pickle"):
        yield name


def test_shipping_code_reads_no_pickle() -> None:
    """No module of pickles, no loader without its guard, no code from text."""
    assert len(SHIPPED) > 100
    assert {path.name: found for path in SHIPPED if (found := list(find_unpickling(path.read_text(encoding="utf-8"))))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "import dill as d", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)", "load_state_dict(p, weights_only=some)", "pl.read_pickle(p)", "yaml.load(t)", "eval(t)",
        "Model(p, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_search_finds_every_kind_of_pickle(code: str) -> None:
    """Each of these lines in shipping code would make the test above fail."""
    assert list(find_unpickling(code))


def make_attack(witness: Path) -> Any:
    """Return an object that creates `witness` when it is unpickled."""

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return os.mkdir, (str(witness),)

    return Attack()


def make_pickle_record(witness: Path) -> dict[str, Any]:
    return {"metadata": {"serializer": {"type": "pickle"}}, "result": base64.encodebytes(cloudpickle.dumps(make_attack(witness))).decode()}


def make_record_without_serializer(witness: Path) -> dict[str, Any]:
    return {"metadata": {}, "result": make_pickle_record(witness)["result"]}


def make_record_with_class(witness: Path) -> dict[str, Any]:
    result = {"__class__": "pathlib.Path.mkdir", "data": {"self": str(witness)}}
    return {"metadata": {"serializer": JSONSerializer().model_dump(mode="json")}, "result": json.dumps(result)}


@pytest.mark.parametrize("planted", [make_pickle_record, make_record_without_serializer, make_record_with_class])
def test_a_planted_record_is_not_read_and_the_stage_is_run(planted: Any, server: str, root: Root, tmp_path: Path) -> None:
    """A file under the key of a stage: Prefect would read it as the file asks; here it counts as missing and is written again."""
    runs: list[int] = []

    def body() -> Record:
        runs.append(1)
        return Record(digest="d", files=())

    task, inputs = replace_body("split", body)
    StageRunner(root).run(task, *inputs.values())
    (record_file,) = root.cache.iterdir()
    assert is_record_json(record_file.read_bytes())
    content = json.dumps(planted(tmp_path / "witness"))
    record_file.write_text(content)
    StageRunner(root).run(task, *inputs.values())
    assert len(runs) == 2
    assert not (tmp_path / "witness").exists()
    assert is_record_json(record_file.read_bytes())
    if planted is not make_record_with_class:
        ResultRecord.deserialize(content.encode())  # what Prefect would have done
        assert (tmp_path / "witness").exists()


def test_arrays_of_objects_are_not_read(tmp_path: Path) -> None:
    """Ground truth whose file holds a pickled object counts as missing."""
    path = tmp_path / "ground_truth.npz"
    np.savez(
        path, scores=np.array([make_attack(tmp_path / "witness")], object), ids=np.zeros(1), is_complete=np.ones(1, bool), key=np.array("k")
    )
    assert _read_neighbors(path, "k") is None
    assert not (tmp_path / "witness").exists()
    np.load(path, allow_pickle=True)["scores"]
    assert (tmp_path / "witness").exists()


def test_a_checkpoint_that_runs_code_is_refused_by_every_encoder(tmp_path: Path) -> None:
    """EfficientNet-Lite's file and a sentence model's; open_clip and timm have tests of their own."""
    path = write_malicious_pickle(tmp_path / "weights.pth", tmp_path / "witness")
    with pytest.raises(InputError, match="does not fit EfficientNet-Lite0"):
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
