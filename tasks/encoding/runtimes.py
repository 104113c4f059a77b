"""Run a float32 model by ONNX Runtime instead of torch, where that is faster: some convolutional models, and some processors."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from indexmill.storage.records import Runtime
from indexmill.tasks.encoding.base import EncodedItems, Encoder, SupportsOnnxExport, encode_batches
from indexmill.tasks.encoding.onnx_encoders import OnnxImageEncoder, OnnxTextEncoder
from indexmill.tasks.encoding.onnx_export import MIN_COSINE, has_onnx_libraries
from indexmill.tasks.encoding.precision import compute_min_cosine
from indexmill.tasks.encoding.row_batches import set_fastest_batch_size

MIN_SPEEDUP = 1.1  # a smaller gain is noise, or is lost on the export
ROUNDS = 2
MAX_IMAGES = 32  # of a sample that is encoded by both: large models take a tenth of a second for one


def export_encoder(encoder: Encoder, temp_dir: Path) -> Encoder | None:
    """Return an encoder that computes the same by ONNX Runtime; None if this one cannot be exported here.

    Args:
        encoder: A loaded model.
        temp_dir: The folder for the graph, which is deleted once it is loaded.
    """
    if not isinstance(encoder, SupportsOnnxExport) or not has_onnx_libraries():
        return None
    import torch

    # A network drive keeps a file that is mapped into memory, and only its name is gone.
    with tempfile.TemporaryDirectory(dir=temp_dir, ignore_cleanup_errors=True) as folder:
        graph_path, tokenizer_path = Path(folder) / "graph.onnx", Path(folder) / "tokenizer.json"
        try:
            settings = encoder.export(graph_path, tokenizer_path)
            if settings.resize is None:
                return OnnxTextEncoder(graph_path, tokenizer_path, settings, encoder.dim, torch.get_num_threads())
            # Imported here with torch. It gives the pixels of `numpy_resize` in a fraction of the time.
            from indexmill.tasks.encoding.preprocessing import resize_pixels

            return OnnxImageEncoder(graph_path, settings.resize, encoder.dim, torch.get_num_threads(), resize_pixels)
        except Exception:  # the exporter runs the model's own code, and both libraries raise errors of their own
            return None


def find_faster_encoder(encoder: Encoder, inputs: Sequence[Any], temp_dir: Path) -> Encoder:
    """Return the encoder or its export, whichever is faster for these inputs, with its fastest batch size set.

    An export is taken only if it encodes the inputs as the model does: no cosine below `MIN_COSINE`, and the same texts
    truncated.

    Args:
        encoder: A model in float32 on the CPU.
        inputs: A sample of preprocessed items.
        temp_dir: The folder for the graph.
    """
    exported = export_encoder(encoder, temp_dir)
    if encoder.modality == "image":
        inputs = inputs[:MAX_IMAGES]
    set_fastest_batch_size(encoder, inputs)
    if exported is None:
        return encoder
    expected = encode_batches(encoder, inputs)
    try:
        set_fastest_batch_size(exported, inputs)
        if not agree(expected, encode_batches(exported, inputs)):
            return encoder
        seconds, exported_seconds = _time_in_turn([encoder, exported], inputs)
    except Exception:  # of ONNX Runtime, such as one for lack of memory
        return encoder
    return exported if is_worth_it(seconds, exported_seconds) else encoder


def is_on_cpu() -> bool:
    """Return whether torch computes on the CPU."""
    from indexmill.tasks.encoding.torch_runtime import get_device  # imports torch

    return get_device().type == "cpu"


def get_runtime(encoder: Encoder) -> Runtime:
    """Return what runs an encoder."""
    return "onnx" if isinstance(encoder, OnnxImageEncoder | OnnxTextEncoder) else "torch"


def is_worth_it(seconds: float, exported_seconds: float) -> bool:
    """Return whether an export that takes so long for a sample is to be used instead of the model."""
    return exported_seconds * MIN_SPEEDUP < seconds


def agree(expected: EncodedItems, encoded: EncodedItems) -> bool:
    """Return whether two encodings of the same items are one within rounding, and truncate the same items."""
    return compute_min_cosine(expected.vectors, encoded.vectors) >= MIN_COSINE and np.array_equal(expected.truncated, encoded.truncated)


def _time_in_turn(encoders: Sequence[Encoder], inputs: Sequence[Any]) -> list[float]:
    """Return the least seconds of each encoder. They take turns, so that other work on the machine delays all alike."""
    best = [float("inf")] * len(encoders)
    for _ in range(ROUNDS):
        for number, encoder in enumerate(encoders):
            start = time.perf_counter()
            encode_batches(encoder, inputs)
            best[number] = min(best[number], time.perf_counter() - start)
    return best
