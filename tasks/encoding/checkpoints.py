"""Find the weights of an open_clip or timm architecture: a local checkpoint, or the weights that a library tag names.

A local checkpoint is found without importing the library, which takes seconds. Only the library can resolve a tag, which is
remembered (`tagged_weights`)."""

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
from indexmill.tasks.encoding.model_files import CONFIG_SUFFIXES, WEIGHT_SUFFIXES, build_folder_error, find_model_path
from indexmill.tasks.encoding.tagged_weights import TaggedWeights, resolve_tag

TAG_PATTERN = re.compile(r"[\w-]+")
# In the order in which open_clip looks for weights in a folder, and timm in a repository.
OPEN_CLIP_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
# What the libraries raise for a file that is not a checkpoint, or is for another architecture.
CHECKPOINT_ERRORS = (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, UnpicklingError)


@dataclass(frozen=True)
class Checkpoint:
    """Weights and their architecture.

    Attributes:
        path: The weights file, or the folder of a model with its own configuration.
        architecture: The library's name for it; None for a folder.
        tag: The library's name for the weights, which also determines image preprocessing; None for a local file.
    """

    path: Path
    architecture: str | None
    tag: str | None = None


def find_open_clip_checkpoint(config: OpenClipEncoderConfig) -> Checkpoint:
    """Find the weights of an open_clip model.

    Raises:
        InputError: Unknown architecture or tag, or no weights.
        SourceUnreachable: The weights are not cached and the hub does not answer.
    """
    if config.model.startswith(("hf-hub:", "local-dir:")):
        return Checkpoint(_find_open_clip_folder(config.model), architecture=None)
    _check_open_clip_architecture(config.model)
    pretrained = str(config.pretrained)
    if not TAG_PATTERN.fullmatch(pretrained):
        return Checkpoint(_find_local_checkpoint(pretrained), config.model)
    weights = resolve_tag("open_clip_torch", config.model, pretrained, lambda: _resolve_open_clip_tag(config.model, pretrained))
    return Checkpoint(_fetch_hub_file(weights.repository, "open-clip", weights.files), config.model, weights.tag)


def find_timm_checkpoint(config: TimmEncoderConfig) -> Checkpoint:
    """Find the weights of a timm model.

    Raises:
        InputError: Unknown architecture or tag, or no weights.
        SourceUnreachable: The weights are not cached and the hub does not answer.
    """
    _check_timm_architecture(config.model)
    if config.pretrained and not TAG_PATTERN.fullmatch(config.pretrained):
        return Checkpoint(_find_local_checkpoint(config.pretrained), config.model)
    weights = resolve_tag("timm", config.model, config.pretrained, lambda: _resolve_timm_tag(config.model, config.pretrained))
    return Checkpoint(_fetch_hub_file(weights.repository, "timm", weights.files), config.model, weights.tag)


def find_folder_weights(folder: Path) -> Path | None:
    """Return the weights file that open_clip would load from a folder."""
    return next((folder / name for name in OPEN_CLIP_FILES if (folder / name).is_file()), None)


def build_checkpoint_error(architecture: str, config: OpenClipEncoderConfig | TimmEncoderConfig, error: Exception) -> InputError:
    """Build the error for a file that cannot be loaded as weights of an architecture."""
    return InputError(
        f"the checkpoint does not fit {architecture}",
        where=f"encoder.model = {config.model}, encoder.pretrained = {config.pretrained}",
        expected="the tensors of this architecture, and nothing but tensors",
        got=" ".join(str(error).split())[:300],
        next_step="correct encoder.pretrained or encoder.model",
    )


def _resolve_open_clip_tag(architecture: str, tag: str) -> TaggedWeights:
    import open_clip.pretrained as library

    if not (pretrained_cfg := library.get_pretrained_cfg(architecture, tag)):
        tags = library.list_pretrained_tags_by_model(architecture)
        raise _build_unknown_name_error(f"weights tag for {architecture}", "encoder.pretrained", tag, tags)
    repository, _, file = pretrained_cfg["hf_hub"].rpartition("/")
    files = (str(Path(file).with_suffix(".safetensors")), file) if file else OPEN_CLIP_FILES
    return TaggedWeights(repository=repository, files=files, tag=tag)


def _resolve_timm_tag(architecture: str, tag: str | None) -> TaggedWeights:
    import timm

    tags = [name.partition(".")[2] for name in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise _build_unknown_name_error(f"weights tag for {architecture}", "encoder.pretrained", tag, tags)
    pretrained_cfg = timm.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    if pretrained_cfg is None or not pretrained_cfg.hf_hub_id:
        raise InputError(
            "timm has no weights for this architecture on the hub",
            where=f"encoder.model = {architecture}",
            got=f"URL: {pretrained_cfg.url if pretrained_cfg else None}",
            next_step="set encoder.pretrained to a local checkpoint, or choose another architecture",
        )
    files = (pretrained_cfg.hf_hub_filename,) if pretrained_cfg.hf_hub_filename else TIMM_FILES
    return TaggedWeights(repository=pretrained_cfg.hf_hub_id, files=files, tag=pretrained_cfg.tag)


def _find_open_clip_folder(model: str) -> Path:
    """Find or download the folder of a model with its own configuration."""
    scheme, _, name = model.partition(":")
    if scheme == "hf-hub":
        from indexmill.tasks.encoding.model_hub import fetch_folder

        folder = fetch_folder(name, "open-clip-folder", _select_open_clip_files, key="encoder.model")
    else:
        folder = find_model_path(name)
    if not (folder / "open_clip_config.json").is_file() or find_folder_weights(folder) is None:
        raise build_folder_error("open_clip", model, folder, f"open_clip_config.json and one of {', '.join(OPEN_CLIP_FILES)}")
    return folder


def _select_open_clip_files(names: list[str]) -> list[str]:
    weights = [name for name in OPEN_CLIP_FILES if name in names][:1]
    if not weights:
        return []
    return [name for name in names if "/" not in name and Path(name).suffix in CONFIG_SUFFIXES] + weights


def _find_local_checkpoint(pretrained: str) -> Path:
    path = find_model_path(pretrained, "encoder.pretrained")
    if path.is_file() and path.suffix in WEIGHT_SUFFIXES:
        return path
    raise InputError(
        "not a checkpoint file",
        where=f"encoder.pretrained = {pretrained}",
        expected=f"a file with suffix {', '.join(sorted(WEIGHT_SUFFIXES))}",
        got="a folder" if path.is_dir() else f"suffix {path.suffix or 'none'}",
        next_step="correct encoder.pretrained",
    )


def _fetch_hub_file(name: str, purpose: str, file_names: Sequence[str]) -> Path:
    # Imported here: it takes a second, and only hub models need it.
    from indexmill.tasks.encoding.model_hub import fetch_file

    return fetch_file(name, purpose, file_names, key="encoder.pretrained")


def _check_open_clip_architecture(architecture: str) -> None:
    if (_find_package_folder("open_clip") / "model_configs" / f"{architecture}.json").is_file():
        return
    import open_clip

    if architecture not in open_clip.list_models():
        raise _build_unknown_name_error("open_clip architecture", "encoder.model", architecture, open_clip.list_models())


def _check_timm_architecture(architecture: str) -> None:
    """Raise InputError for an unknown architecture.

    A timm architecture is a function of that name, so timm's source is searched first: importing timm takes seconds.
    """
    sources = (_find_package_folder("timm") / "models").glob("*.py")
    if any(f"\ndef {architecture}(" in source.read_text(encoding="utf-8") for source in sources):
        return
    import timm

    if not timm.is_model(architecture):
        raise _build_unknown_name_error("timm architecture", "encoder.model", architecture, timm.list_models())


def _find_package_folder(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else Path(package)


def _build_unknown_name_error(kind: str, key: str, name: str, known_names: Iterable[str]) -> InputError:
    suggestions = difflib.get_close_matches(name, list(known_names), n=3, cutoff=0)
    return InputError(
        f"unknown {kind}",
        where=f"{key} = {name}",
        got=f"closest names: {', '.join(suggestions) or 'none'}",
        next_step=f"correct {key}",
    )
