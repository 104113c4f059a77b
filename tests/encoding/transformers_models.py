"""Small models of transformers with random weights, as a hub repository has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8}
CONTEXT = 16
TEXT: dict[str, Any] = {
    **SIZES, "vocab_size": 32, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
WORDS = ["a", "photo", "of", "cat", "dog", "the", "red", "car"]
# Not the defaults, so that a loader that ignores the image processor's files fails.
MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]

TWO_SIDED: dict[str, dict[str, Any]] = {
    "CLIP": {"text_config": TEXT, "vision_config": PATCHES, "projection_dim": 24},
    "MetaClip2": {"text_config": TEXT, "vision_config": PATCHES, "projection_dim": 24},
    "ChineseCLIP": {"text_config": TEXT, "vision_config": PATCHES, "projection_dim": 24},
    "AltCLIP": {"text_config": {**TEXT, "project_dim": 24, "max_position_embeddings": 24}, "vision_config": PATCHES, "projection_dim": 24},
    "Siglip": {"text_config": {**TEXT, "projection_size": 32}, "vision_config": PATCHES},
    "Siglip2": {"text_config": {**TEXT, "projection_size": 32}, "vision_config": {**SIZES, "num_patches": 16, "patch_size": 8}},
}
IMAGE_ONLY: dict[str, dict[str, Any]] = {
    "DINOv3ViT": PATCHES,
    "DINOv3ConvNext": STAGES,
    "Dinov2": PATCHES,
    "Dinov2WithRegisters": PATCHES,
    "ViT": PATCHES,
    "DeiT": PATCHES,
    "ViTMSN": PATCHES,
    "ConvNext": {**STAGES, "num_stages": 4},
    "ConvNextV2": {**STAGES, "num_stages": 4},
    "ResNet": {**STAGES, "embedding_size": 8},
    "Swin": {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "Swinv2": {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
    "SiglipVision": PATCHES,
    "Siglip2Vision": {**SIZES, "num_patches": 16, "patch_size": 8},
    "CLIPVision": PATCHES,
}


def write_two_sided_model(folder: Path, name: str, seed: int = 0) -> Path:
    """Write a model of images and texts, such as `Siglip`."""
    write_model(folder, f"{name}Model", make_config(name, TWO_SIDED[name]), seed)
    return write_tokenizer(write_image_processor(folder, name))


def write_image_model(folder: Path, name: str, seed: int = 0) -> Path:
    """Write a model of images alone, such as `Dinov2`."""
    write_model(folder, f"{name}Model", make_config(name, IMAGE_ONLY[name]), seed)
    return write_image_processor(folder, name)


def make_config(name: str, settings: dict[str, Any]) -> Any:
    """Make a configuration of the library."""
    return getattr(transformers, f"{name}Config")(**settings)


def write_model(folder: Path, model_class: str, config: Any, seed: int = 0) -> Path:
    """Write a model with random weights."""
    torch.manual_seed(seed)
    getattr(transformers, model_class)(config).save_pretrained(folder)
    return folder


def write_image_processor(folder: Path, name: str) -> Path:
    """Write the configuration of an image processor for a model: images of 32 x 32 pixels, or for SigLIP 2 of 16 patches in any shape."""
    if name.startswith("Siglip2"):
        processor: Any = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16, image_mean=MEAN, image_std=STD)
    else:
        sizes: dict[str, Any] = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
        processor = transformers.CLIPImageProcessor(**sizes, image_mean=MEAN, image_std=STD)
    processor.save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of WORDS that marks start and end, and takes CONTEXT tokens."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens, model_max_length=CONTEXT).save_pretrained(folder)
    return folder
