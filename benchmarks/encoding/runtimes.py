"""float32 and 8-bit models by torch and by ONNX Runtime: CPU time of one thread, and how near the vectors are to torch's in float32.

See avx2_only.c for a processor without AVX-512.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.encoding.items import sample_images, sample_sentences
from benchmarks.encoding.models import MODELS, write_weights
from benchmarks.encoding.report import print_row
from benchmarks.measuring import time_in_turn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCHES, ROUNDS = {True: 16, False: 64}, 3  # images, texts


def measure(names: Sequence[str], items: int) -> dict[str, Any]:
    """Print and return milliseconds per item and the agreement with torch, by model and runtime."""
    import torch

    torch.set_num_threads(1)
    rows = []
    print(f"{torch.backends.cpu.get_cpu_capability()}\n")
    print(
        "| model | runtime | ms per item | times torch | mean cosine | neighbors kept | passes as a precision |\n"
        "|---|---|---|---|---|---|---|"
    )
    for model in (model for model in MODELS if model.name in names):
        with tempfile.TemporaryDirectory() as folder:
            for row in _measure_model(model, Path(folder), items):
                rows.append(row)
                print_row(row, "{:.5g}")
    return {"runtimes": rows}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw how many times as fast as torch each runtime is."""
    from benchmarks.plotting import OTHERS, OURS, draw_bars, get_bars_height, split_panels

    rows = results["runtimes"]
    ratios = {f"{row['model']}, {row['runtime']}": row["times torch"] for row in rows}
    (axes,) = split_panels(figure, 1, height=get_bars_height(len(ratios)))
    colors = [OURS if row["passes"] else OTHERS for row in rows]  # gray: too far from torch's vectors
    draw_bars(axes, ratios, unit="times as fast as torch in float32; gray: fails the precision check", text="{:,.2f}", colors=colors)


def _measure_model(model: Any, folder: Path, items: int) -> list[dict[str, Any]]:
    from indexmill.tasks.encoding.precision import compute_agreement, passes

    encoders, inputs = _load_encoders(model, folder, items)
    vectors = {name: encoder.encode(inputs, BATCHES[model.images]).vectors for name, encoder in encoders.items()}
    steps = {name: partial(encoder.encode, inputs, BATCHES[model.images]) for name, encoder in encoders.items()}
    seconds = time_in_turn(steps, ROUNDS)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = []
    for name, median in medians.items():
        agreement = compute_agreement(vectors["torch"], vectors[name])
        figures = {"ms": 1e3 * median / len(inputs), "times torch": medians["torch"] / median}
        agreed = {"mean cosine": agreement.mean_cosine, "neighbors kept": agreement.overlap_at_10, "passes": passes(agreement)}
        rows.append({"model": model.name, "runtime": name, **figures, **agreed})
    return rows


def _load_encoders(model: Any, folder: Path, items: int) -> tuple[dict[str, Any], list[Any]]:
    """Load a model by torch, and its export in float32 and in 8 bits; return the inputs to encode, too."""
    from pydantic import TypeAdapter

    from indexmill.configs.encoders import EncoderConfig
    from indexmill.tasks.encoding import load_encoder
    from indexmill.tasks.encoding.onnx_encoders import OnnxImageEncoder, OnnxTextEncoder
    from indexmill.tasks.validation.image_reader import UNLIMITED, read_image

    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(model.settings(write_weights(model, folder)))
    encoder: Any = load_encoder(config)
    graph, tokenizer = folder / "graph.onnx", folder / "tokenizer.json"
    settings = encoder.export(graph, tokenizer)
    encoders: dict[str, Any] = {"torch": encoder}
    for name, path in {"ONNX Runtime": graph, **_quantize(graph, folder)}.items():
        if settings.resize is not None:
            encoders[name] = OnnxImageEncoder(path, settings.resize, encoder.dim, threads=1)
        else:
            encoders[name] = OnnxTextEncoder(path, tokenizer, settings, encoder.dim, threads=1)
    if not model.images:
        return encoders, sample_sentences(items)
    return encoders, [encoder.preprocess(read_image(Path(path).read_bytes(), UNLIMITED)) for path in sample_images(items)]


def _quantize(graph: Path, folder: Path) -> dict[str, Path]:
    """Write the matrix products of a graph in 8 bits: with activations rounded batch by batch, and with weights alone rounded."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    paths = {"8 bits, dynamic": folder / "dynamic.onnx"}
    # Without VNNI, sums of products of two 8-bit numbers overflow 16 bits; 7 bits are safe, but were no more accurate.
    quantize_dynamic(graph, paths["8 bits, dynamic"], per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    for name, level in (("8-bit weights, products in float32", 0), ("8-bit weights, products in 8 bits", 4)):
        quantizer = MatMulNBitsQuantizer(onnx.load(graph), bits=8, block_size=64, is_symmetric=True, accuracy_level=level)
        quantizer.process()
        paths[name] = folder / f"weights-{level}.onnx"
        quantizer.model.save_model_to_file(str(paths[name]))
    return paths
