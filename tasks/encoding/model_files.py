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
    """Resolve a local path or `package:NAME/PATH` to a file or folder.

    Args:
        model: The value in the config.
        key: The config key that holds it, for the error.

    Raises:
        InputError: The path does not exist.
    """
    if not model.startswith("package:"):
        path = Path(model).expanduser()
        next_step = f"correct {key}, or download the model first"
    else:
        package, _, subpath = model.removeprefix("package:").partition("/")
        spec = find_spec(package)
        path = Path(spec.origin).parent / subpath if spec and spec.origin else Path(package)
        next_step = "pip install 'indexmill[demo]' -c constraints.txt"
    if not path.exists():
        raise InputError("model not found", where=f"{key} = {model}", got=f"nothing at {path}", next_step=next_step)
    return path


def build_folder_error(library: str, model: str, folder: Path, expected: str) -> InputError:
    """Build the error for a path that is not a library's model folder.

    Args:
        library: The library, by its own name.
        model: The value of `encoder.model`.
        folder: What it names.
        expected: The files that a model folder has.
    """
    return InputError(
        f"not a model folder of {library}",
        where=f"encoder.model = {model}",
        expected=expected,
        got=", ".join(sorted(file.name for file in folder.iterdir())[:20]) if folder.is_dir() else "a file",
        next_step="correct encoder.model",
    )


def find_sentence_transformer_folder(model: str) -> Path:
    """Return the folder of a sentence-transformers model: a local one (`find_model_path`) or one from the hub.

    Raises:
        InputError: No such model.
        SourceUnreachable: The model is not cached and the hub does not answer.
    """
    if not HUB_ID_PATTERN.fullmatch(model) or Path(model).exists():
        return find_model_path(model)
    # Imported here: it takes a second, and only hub models need it.
    from indexmill.tasks.encoding.model_hub import fetch_folder

    return fetch_folder(model, "sentence-transformers", _select_sentence_transformer_files, key="encoder.model")


def list_model_files(path: Path) -> list[Path]:
    """List the files that determine what a model computes: weights, tokenizer, configuration."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in WEIGHT_SUFFIXES | CONFIG_SUFFIXES)


def _select_sentence_transformer_files(names: list[str]) -> list[str]:
    """Select the files that the library reads: in each folder the safetensors weights, or else PyTorch's."""
    paths = [Path(name) for name in names if not name.startswith(("onnx/", "openvino/"))]
    folders_with_safetensors = {path.parent for path in paths if path.suffix == ".safetensors"}
    weights = [
        path for path in paths if path.suffix == ".safetensors" or (path.suffix == ".bin" and path.parent not in folders_with_safetensors)
    ]
    if not weights:
        return []
    return [path.as_posix() for path in paths if path.suffix in CONFIG_SUFFIXES] + [path.as_posix() for path in weights]
