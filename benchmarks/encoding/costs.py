"""CPU time of each step from an image's file to its vector, of one thread, and the share of the pure forward rate that they leave.

On a CPU all steps take the same cores, so that their times add up: no order of work can reach more than
forward / (read + decode + resize + batch + forward). CPU time holds on a busy machine, where wall-clock time does not.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.encoding.items import sample_images, sample_tiny_images
from benchmarks.encoding.models import MODELS, as_numpy, load_library, write_weights
from benchmarks.encoding.report import print_row
from benchmarks.measuring import time_in_turn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH, ROUNDS = 16, 5


def measure(names: Sequence[str], items: int) -> dict[str, Any]:
    """Print and return microseconds per image: of photographs (Caltech-101) and of 64 x 64 pixels (tiny-imagenet)."""
    import torch

    torch.set_num_threads(1)
    rows = []
    print("| model | images | read | decode | resize | batch | forward | the library's forward | limit | against the library |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model in (model for model in MODELS if model.images and model.name in names):
            weights = write_weights(model, Path(folder))
            for images, paths in (("photographs", sample_images(items)), ("64 x 64", sample_tiny_images(items))):
                row = {"model": model.name, "images": images} | _measure_model(model, weights, paths)
                rows.append(row)
                print_row(row, "{:,.2f}")
    return {"costs": rows}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the largest share of the pure forward rate that the other steps leave."""
    from benchmarks.plotting import draw_bars, get_bars_height, split_panels

    limits = {f"{row['model']}, {row['images']}": 100 * row["limit"] for row in results["costs"]}
    (axes,) = split_panels(figure, 1, height=get_bars_height(len(limits)))
    draw_bars(axes, limits, unit="forward in % of an image's whole CPU time", text="{:,.0f}")


def _measure_model(model: Any, weights: str, paths: list[str]) -> dict[str, Any]:
    import torch
    from pydantic import TypeAdapter

    from indexmill.configs.encoders import EncoderConfig
    from indexmill.storage.contents import read_content
    from indexmill.storage.digests import content_digest
    from indexmill.tasks.encoding.precision import find_fastest_precision
    from indexmill.tasks.encoding.protocol import ModelSpec
    from indexmill.tasks.encoding.worker import load_modality_encoder
    from indexmill.tasks.validation.image_reader import UNLIMITED, read_image

    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(model.settings(weights))
    precision = find_fastest_precision()
    encoder: Any = load_modality_encoder(ModelSpec(config, precision, "image"))
    library = load_library(model, weights, precision, fast=True)
    contents = [read_content(path) for path in paths]
    images = [read_image(content, UNLIMITED, encoder.decode_size) for content in contents]
    batches = [[encoder.preprocess(image) for image in images[start : start + BATCH]] for start in range(0, len(images), BATCH)]

    def normalize(batch: list[np.ndarray]) -> torch.Tensor:
        return encoder._preprocessor.normalize(torch.from_numpy(np.stack(batch)), encoder._dtype)

    ready = [normalize(batch) for batch in batches]
    with torch.inference_mode():
        seconds = time_in_turn(
            {
                "read": lambda: [content_digest(read_content(path)) for path in paths],
                "decode": lambda: [read_image(content, UNLIMITED, encoder.decode_size) for content in contents],
                "resize": lambda: [encoder.preprocess(image) for image in images],
                "batch": lambda: [normalize(batch) for batch in batches],
                "forward": lambda: [as_numpy(encoder._network(batch)) for batch in ready],
                "library": lambda: [as_numpy(library.forward(batch)) for batch in ready],
            },
            ROUNDS,
        )
    costs = {name: round(1e6 * statistics.median(values) / len(paths)) for name, values in seconds.items()}
    total = sum(value for name, value in costs.items() if name != "library")
    return {**costs, "limit": costs["forward"] / total, "against the library": costs["library"] / total}
