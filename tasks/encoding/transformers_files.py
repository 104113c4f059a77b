"""Find a model of transformers, and read from its files what it encodes and how its output is pooled. Imports no library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from indexmill.configs.encoders import Pooling, TransformersEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.encoding.model_files import CONFIG_SUFFIXES, HUB_ID_PATTERN, build_folder_error, find_model_path

# What the model cards say, by `model_type`. Two-sided models project images and texts into one space.
TWO_SIDED = ("altclip", "chinese_clip", "clip", "metaclip_2", "siglip", "siglip2")
POOLED_BY_MODEL = (
    "clip_vision_model",
    "convnext",
    "convnextv2",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_convnext",
    "dinov3_vit",
    "resnet",
    "siglip2_vision_model",
    "siglip_vision_model",
    "swin",
    "swinv2",
)
POOLED_BY_FIRST_TOKEN = ("deit", "vit", "vit_msn")  # the dense layer of their `pooler_output` is random in many checkpoints
MODEL_POOLING: dict[str, Pooling] = {
    **dict.fromkeys(TWO_SIDED, "projection"),
    **dict.fromkeys(POOLED_BY_MODEL, "pooler"),
    **dict.fromkeys(POOLED_BY_FIRST_TOKEN, "cls"),
}
# One side of a CLIP model: AutoModel would leave the projection out.
PROJECTING_SIDES = ("CLIPTextModelWithProjection", "CLIPVisionModelWithProjection")
IMAGE_FILES = ("preprocessor_config.json", "processor_config.json")
TEXT_FILES = ("tokenizer.json", "tokenizer_config.json")
# In the order in which transformers looks for weights; those of an index are in several files.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def find_transformers_folder(model: str) -> Path:
    """Return the folder of a model: a local one (`find_model_path`) or one from the hub.

    Raises:
        InputError: No such model, or a folder without a model of transformers.
        SourceUnreachable: The model is not cached and the hub does not answer.
    """
    if HUB_ID_PATTERN.fullmatch(model) and not Path(model).exists():
        # Imported here: it takes a second, and only hub models need it.
        from indexmill.tasks.encoding.model_hub import fetch_folder

        return fetch_folder(model, "transformers", select_transformers_files, key="encoder.model")
    folder = find_model_path(model)
    if not folder.is_dir() or not select_transformers_files([file.name for file in folder.iterdir()]):
        raise build_folder_error("transformers", model, folder, f"config.json and one of {', '.join(WEIGHTS)}")
    return folder


def select_transformers_files(names: list[str]) -> list[str]:
    """Select the files that the library reads: configuration, tokenizer, and the first kind of weights. Empty without a model."""
    weights = next((name for name in WEIGHTS if name in names), None)
    if weights is None or "config.json" not in names:
        return []
    stem, _, suffix = weights.removesuffix(".index.json").rpartition(".")
    shards = [name for name in names if name.startswith(f"{stem}-") and name.endswith(f".{suffix}")] if weights.endswith("json") else []
    configs = [name for name in names if Path(name).suffix in CONFIG_SUFFIXES and "/" not in name and not name.endswith(".index.json")]
    return [*configs, weights, *shards]


def list_transformers_files(folder: Path) -> list[Path]:
    """List the files that determine what a model computes."""
    return [folder / name for name in sorted(select_transformers_files([file.name for file in folder.iterdir()]))]


def describe_transformers_model(folder: Path, config: TransformersEncoderConfig) -> dict[str, Any]:
    """Return what the model encodes, its architecture and its pooling: part of its identity.

    Raises:
        InputError: Its pooling is not known and not set, or cannot be that which is set.
    """
    model_config = read_model_config(folder)
    model_type, architecture = str(model_config.get("model_type")), get_architecture(model_config)
    modalities = _find_modalities(folder, model_config, config)
    known = "projection" if architecture in PROJECTING_SIDES else MODEL_POOLING.get(model_type)
    pooling = known if config.pooling == "auto" else config.pooling
    if pooling is None:
        raise InputError(
            "the pooling of this architecture is not known",
            where=f"encoder.model = {config.model}",
            expected=f"one of the architectures {', '.join(sorted(MODEL_POOLING))}, or encoder.pooling",
            got=f"model_type {model_type}, architecture {architecture}",
            next_step="set encoder.pooling to what the model's card takes: projection, pooler, cls or mean; for sentence embeddings"
            " set encoder.kind to sentence-transformers",
        )
    if (pooling == "projection") != (len(modalities) == 2 or architecture in PROJECTING_SIDES):
        raise InputError(
            "the model has no such output",
            where=f"encoder.pooling = {pooling}",
            expected="projection for models of images and texts, pooler, cls or mean for others",
            got=f"{architecture}, which encodes {' and '.join(f'{modality}s' for modality in modalities)}",
            next_step="correct encoder.pooling",
        )
    return {"architecture": architecture, "pooling": pooling, "modalities": modalities}


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read config.json. A damaged one fails when the library loads the model."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def get_architecture(model_config: dict[str, Any]) -> str:
    """Return the class that the model was saved from; empty if the configuration does not name it."""
    return str((model_config.get("architectures") or [""])[0])


def _find_modalities(folder: Path, model_config: dict[str, Any], config: TransformersEncoderConfig) -> tuple[Modality, ...]:
    names = {file.name for file in folder.iterdir()}
    if "vision_config" in model_config and "text_config" in model_config:
        return ("image", "text")
    if names.intersection(IMAGE_FILES):
        return ("image",)
    if names.intersection(TEXT_FILES):
        return ("text",)
    raise InputError(
        "the model comes without an image processor and without a tokenizer",
        where=f"encoder.model = {config.model}",
        expected=f"one of {', '.join((*IMAGE_FILES, *TEXT_FILES))}",
        got=", ".join(sorted(names)[:20]),
        next_step="download the whole model, or choose another",
    )
