"""Find a model's path, and list the files that determine what it computes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from indexmill.storage.errors import InputError

HUB_ID_PATTERN = re.compile(r"\w[\w.-]*/\w[\w.-]*")
CONFIG_SUFFIXES = frozenset({".json", ".txt", ".model"})
WEIGHT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth"})


def find_model_path(model: str, key: str = "encoder.model") -> Path:
    """The file or folder of `package:NAME/PATH` or of a local path. Raises InputError, naming the config's key, when it is not there."""
    if not model.startswith("package:"):
        path = Path(model).expanduser()
        next_step = f"mend {key}, or download the model first"
    else:
        package, _, inside = model.removeprefix("package:").partition("/")
        spec = find_spec(package)
        path = Path(spec.origin).parent / inside if spec and spec.origin else Path(package)
        next_step = "pip install 'indexmill[demo]' -c constraints.txt"
    if not path.exists():
        raise InputError("the model is not there", where=f"{key} = {model}", got=f"nothing at {path}", next_step=next_step)
    return path


def find_sentence_transformer_folder(model: str) -> Path:
    """The folder of a sentence-transformers model: as `find_model_path` finds it, else the hub's model of that id. Raises as both do."""
    if not HUB_ID_PATTERN.fullmatch(model) or Path(model).exists():
        return find_model_path(model)
    from indexmill.tasks.encoding.model_hub import fetch_folder  # here: its libraries take a second that only its users have to pay

    return fetch_folder(model, "sentence-transformers", _select_sentence_transformer_files, key="encoder.model")


def list_model_files(path: Path) -> list[Path]:
    """The files that decide what a model computes: weights, tokenizer, configuration."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in WEIGHT_SUFFIXES | CONFIG_SUFFIXES)


def _select_sentence_transformer_files(names: list[str]) -> list[str]:
    """What the library reads of a repository: of weights that come in several formats, safetensors, else PyTorch's, folder by folder."""
    paths = [Path(name) for name in names if not name.startswith(("onnx/", "openvino/"))]
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    weights = [path for path in paths if path.suffix == ".safetensors" or (path.suffix == ".bin" and path.parent not in safe)]
    return [path.as_posix() for path in paths if path.suffix in CONFIG_SUFFIXES] + [path.as_posix() for path in weights] if weights else []
