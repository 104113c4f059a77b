"""Find the weights of an open_clip or timm architecture: a local checkpoint, or the weights that a library tag names.

Local checkpoints are found without importing the library, which takes seconds; tags can only be resolved by the library itself."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

from indexmill.configs.encoders import OpenClipEncoderConfig, TimmEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.tasks.encoding.model_files import CONFIG_SUFFIXES, WEIGHT_SUFFIXES, find_model_path

TAG_PATTERN = re.compile(r"[\w-]+")
# The order in which open_clip itself looks for weights in a folder, and timm in a repository.
OPEN_CLIP_FILES = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth",
    "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
# What the libraries raise for a file that is no checkpoint, or another architecture's.
CHECKPOINT_ERRORS = (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, UnpicklingError)


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and what they are for.

    path: the file; the folder of a model with a configuration of its own. architecture: the library's name of it, None for a folder.
    tag: the library's name of the weights, which also says how images are prepared; None for a local file.
    """

    path: Path
    architecture: str | None
    tag: str | None = None


def find_open_clip_checkpoint(config: OpenClipEncoderConfig) -> Checkpoint:
    """The weights of an open_clip model. Raises InputError for an unknown architecture or tag, or weights that are not there."""
    if config.model.startswith(("hf-hub:", "local-dir:")):
        return Checkpoint(_find_open_clip_folder(config.model), architecture=None)
    _check_open_clip_architecture(config.model)
    pretrained = str(config.pretrained)
    if not TAG_PATTERN.fullmatch(pretrained):
        return Checkpoint(_find_local_checkpoint(pretrained), config.model)
    import open_clip.pretrained as library

    if not (pretrained_cfg := library.get_pretrained_cfg(config.model, pretrained)):
        raise _build_unknown_name_error(
            "tag of this architecture", "encoder.pretrained", pretrained, library.list_pretrained_tags_by_model(config.model)
        )
    name, _, file = pretrained_cfg["hf_hub"].rpartition("/")
    file_names = (str(Path(file).with_suffix(".safetensors")), file) if file else OPEN_CLIP_FILES
    return Checkpoint(_fetch_hub_file(name, "open-clip", file_names), config.model, pretrained)


def find_timm_checkpoint(config: TimmEncoderConfig) -> Checkpoint:
    """The weights of a timm model. Raises InputError for an unknown architecture or tag, or weights that are not there."""
    _check_timm_architecture(config.model)
    if config.pretrained and not TAG_PATTERN.fullmatch(config.pretrained):
        return Checkpoint(_find_local_checkpoint(config.pretrained), config.model)
    import timm

    tags = [name.partition(".")[2] for name in timm.list_models(f"{config.model}.*", pretrained=True)]
    if config.pretrained and config.pretrained not in tags:
        raise _build_unknown_name_error("tag of this architecture", "encoder.pretrained", config.pretrained, tags)
    pretrained_cfg = timm.get_pretrained_cfg(f"{config.model}.{config.pretrained}" if config.pretrained else config.model)
    if pretrained_cfg is None or not pretrained_cfg.hf_hub_id:
        raise InputError(
            "timm has no weights of this architecture on the hub",
            where=f"encoder.model = {config.model}",
            got=f"its own address: {pretrained_cfg.url if pretrained_cfg else None}",
            next_step="name a local checkpoint in encoder.pretrained, or choose another architecture",
        )
    file_names = (pretrained_cfg.hf_hub_filename,) if pretrained_cfg.hf_hub_filename else TIMM_FILES
    return Checkpoint(_fetch_hub_file(pretrained_cfg.hf_hub_id, "timm", file_names), config.model, pretrained_cfg.tag)


def find_folder_weights(folder: Path) -> Path | None:
    """The weights that open_clip takes in a folder."""
    return next((folder / name for name in OPEN_CLIP_FILES if (folder / name).is_file()), None)


def _find_open_clip_folder(model: str) -> Path:
    """The folder of a model with a configuration of its own, with everything that open_clip needs of it."""
    scheme, _, name = model.partition(":")
    if scheme == "hf-hub":
        from indexmill.tasks.encoding.model_hub import fetch_folder

        folder = fetch_folder(name, "open-clip-folder", _select_open_clip_files, key="encoder.model")
    else:
        folder = find_model_path(name)
    if not (folder / "open_clip_config.json").is_file() or find_folder_weights(folder) is None:
        raise InputError(
            "the folder is not an open_clip model's",
            where=f"encoder.model = {model}",
            expected=f"open_clip_config.json and one of {', '.join(OPEN_CLIP_FILES)}",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:20]) if folder.is_dir() else "a file",
            next_step="mend encoder.model",
        )
    return folder


def _select_open_clip_files(names: list[str]) -> list[str]:
    weights = [name for name in OPEN_CLIP_FILES if name in names][:1]
    return [name for name in names if "/" not in name and Path(name).suffix in CONFIG_SUFFIXES] + weights if weights else []


def _find_local_checkpoint(pretrained: str) -> Path:
    path = find_model_path(pretrained, "encoder.pretrained")
    if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
        return path
    raise InputError(
        "this is no checkpoint",
        where=f"encoder.pretrained = {pretrained}",
        expected=f"a file of the kind {', '.join(sorted(WEIGHT_SUFFIXES))}",
        got="a folder" if path.is_dir() else f"a file of the kind {path.suffix or 'of no ending'}",
        next_step="mend encoder.pretrained",
    )


def _fetch_hub_file(name: str, purpose: str, file_names: Sequence[str]) -> Path:
    from indexmill.tasks.encoding.model_hub import fetch_file  # here: its libraries take a second that only its users have to pay

    return fetch_file(name, purpose, file_names, key="encoder.pretrained")


def _check_open_clip_architecture(architecture: str) -> None:
    if (_find_package_folder("open_clip") / "model_configs" / f"{architecture}.json").is_file():
        return
    import open_clip

    if architecture not in open_clip.list_models():
        raise _build_unknown_name_error("architecture of open_clip", "encoder.model", architecture, open_clip.list_models())


def _check_timm_architecture(architecture: str) -> None:
    """timm's architectures are functions of their names: found in its source when they are there, so timm is asked only of others."""
    if any(f"\ndef {architecture}(" in file.read_text(encoding="utf-8") for file in (_find_package_folder("timm") / "models").glob("*.py")):
        return
    import timm

    if not timm.is_model(architecture):
        raise _build_unknown_name_error("architecture of timm", "encoder.model", architecture, timm.list_models())


def _find_package_folder(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path(package)


def _build_unknown_name_error(what: str, key: str, name: str, known_names: Iterable[str]) -> InputError:
    suggestions = difflib.get_close_matches(name, list(known_names), n=3, cutoff=0)
    return InputError(
        f"there is no such {what}", where=f"{key} = {name}", got=f"nearest: {', '.join(suggestions) or 'none'}", next_step=f"mend {key}"
    )


def build_checkpoint_error(architecture: str, config: OpenClipEncoderConfig | TimmEncoderConfig, error: Exception) -> InputError:
    """The error for a file that does not load as that architecture's weights."""
    return InputError(
        f"the checkpoint is not one of {architecture}",
        where=f"encoder.model = {config.model}, encoder.pretrained = {config.pretrained}",
        expected="tensors of this architecture, and nothing but tensors",
        got=" ".join(str(error).split())[:300],
        next_step="mend encoder.pretrained or encoder.model",
    )
