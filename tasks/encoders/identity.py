"""Which model exactly: found from files and versions, without loading it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.models import EncoderConfig
from storage.digests import file_digest, json_digest
from storage.errors import InputError

LIBRARIES = {
    "sentence-transformers": ("sentence-transformers", "transformers", "torch"),
    "efficientnet-lite": ("efficientnet-lite-pytorch", "pillow", "torch"),
}
# Raised when an encoder file changes what comes out.
ENCODER_VERSIONS = {"sentence-transformers": 1, "efficientnet-lite": 1}


@dataclass(frozen=True)
class Identity:
    """fingerprint names the embedding store: equal fingerprints mean interchangeable vectors. details says what it was made from."""

    fingerprint: str
    details: dict[str, Any]


def identify(config: EncoderConfig) -> Identity:
    """The identity of the encoder that a config names. Raises InputError when its weights are not there or not the expected ones."""
    path = locate(config.model)
    weights = {file.relative_to(path).as_posix() if path.is_dir() else file.name: file_digest(file) for file in model_files(path)}
    details: dict[str, Any] = {
        "kind": config.kind,
        "model": config.model,
        "encoder_version": ENCODER_VERSIONS[config.kind],
        "libraries": {name: version(name) for name in LIBRARIES[config.kind]},
        "weights": weights,
        "precision": "float32",
        "normalize": config.normalize,
    }
    if config.weights_sha256 and config.weights_sha256 not in weights.values():
        raise InputError(
            "the model's weights are not the expected ones",
            where=f"encoder.model = {config.model}",
            expected=f"a file with SHA-256 {config.weights_sha256}",
            got=", ".join(f"{name} {digest}" for name, digest in weights.items()),
            next_step="install the package again, or mend encoder.weights_sha256",
        )
    # Where the weights lie is no part of what they are.
    return Identity(json_digest({**details, "model": None})[:32], details)


def locate(model: str) -> Path:
    """The file or folder of `package:NAME/PATH` or of a local path. Raises InputError when it is not there."""
    if not model.startswith("package:"):
        path = Path(model).expanduser()
        next_step = "mend encoder.model, or download the model first"
    else:
        package, _, inside = model.removeprefix("package:").partition("/")
        spec = find_spec(package)
        path = Path(spec.origin).parent / inside if spec and spec.origin else Path(package)
        next_step = "pip install 'indexmill[demo]' -c constraints.txt"
    if not path.exists():
        raise InputError("the model is not there", where=f"encoder.model = {model}", got=f"nothing at {path}", next_step=next_step)
    return path


def model_files(path: Path) -> list[Path]:
    """The files that decide what a model computes: weights, tokenizer, configuration."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in {".safetensors", ".bin", ".pt", ".pth", ".json", ".txt", ".model"})
