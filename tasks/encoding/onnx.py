"""Run a text encoder that was exported to ONNX, without importing torch; export one that has no export yet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from indexmill.configs.encoders import EncoderConfig, SentenceTransformersEncoderConfig
from indexmill.storage import parquet
from indexmill.storage.errors import IndexmillError
from indexmill.storage.onnx_exports import OnnxExport, is_damaged, load_onnx_export, save_onnx_export
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.process import EncoderProcess, WorkerLost
from indexmill.tasks.encoding.protocol import ExportResult, ExportTextEncoder, ModelSpec
from indexmill.tasks.progress import track

BATCH_SIZE = 64
WINDOW_SIZE = 2048  # texts that are sorted by length, so that those of a batch are alike
RUNTIME_PACKAGES = ("onnxruntime", "tokenizers")
MIN_COSINE = 0.9999  # an export with a lower one is not used
SAMPLE_SIZE = 64  # texts that are encoded by both the export and the encoder
FAILED_EXPORT = ExportResult(dim=0, prompt="", compared_texts=0, min_cosine=0.0)

log = logging.getLogger("indexmill.encoding")


class OnnxTextEncoder:
    """A text encoder that runs a graph and a tokenizer as `indexmill.tasks.encoding.onnx_writer` writes them.

    Args:
        graph_path: The ONNX graph.
        tokenizer_path: The tokenizer, as JSON.
        prompt: Precedes every text.
        dim: Length of the vectors.
        threads: Threads of one forward pass; 0: one per core.
    """

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, graph_path: Path, tokenizer_path: Path, prompt: str, dim: int, threads: int = 0) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Without this, waiting threads spin and take the cores from the server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(graph_path), options, providers=["CPUExecutionProvider"])
        self._input_names = [node.name for node in self._session.get_inputs()]
        self._tokenizer = Tokenizer.from_file(str(tokenizer_path))
        self._prompt, self.dim = prompt, dim
        self.batch_size, self.window = BATCH_SIZE, WINDOW_SIZE

    def preprocess(self, item: str) -> str:
        """Return the text itself: `encode` tokenizes it."""
        return item

    def encode(self, inputs: Sequence[str], batch_size: int) -> EncodedItems:
        """Encode n texts: vectors float32 (n, dim). Texts of similar length share a batch."""
        encoded = EncodedItems(np.empty((len(inputs), self.dim), np.float32), np.zeros(len(inputs), bool))
        order = sorted(range(len(inputs)), key=lambda position: len(inputs[position]))
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            encodings = self._tokenizer.encode_batch([self._prompt + inputs[position] for position in positions])
            token_arrays = {
                "input_ids": [encoding.ids for encoding in encodings],
                "attention_mask": [encoding.attention_mask for encoding in encodings],
                "token_type_ids": [encoding.type_ids for encoding in encodings],
            }
            feeds = {name: np.array(token_arrays[name], np.int64) for name in self._input_names}
            encoded.vectors[positions] = self._session.run(None, feeds)[0]
            encoded.truncated[positions] = [bool(encoding.overflowing) for encoding in encodings]
        return encoded


def open_onnx_encoder(root: Root, fingerprint: str) -> OnnxTextEncoder | None:
    """Open the export of an encoder.

    Args:
        root: The storage root.
        fingerprint: The fingerprint of the encoder of queries in float32.

    Returns:
        The export; None if there is none, if it is damaged or not accurate enough, or if it cannot run here.
    """
    export = load_onnx_export(root, fingerprint)
    if export is None or not export.passes or len(export.files) != 2 or is_damaged(root, export) or not can_run_onnx():
        return None
    graph_path, tokenizer_path = (root.file(ref) for ref in export.files)
    try:
        return OnnxTextEncoder(graph_path, tokenizer_path, export.prompt, export.dim)
    except Exception as error:  # an onnxruntime that cannot read the graph raises its own errors
        log.warning("cannot open the ONNX export, using the encoder itself: %s", error)
        return None


def can_run_onnx() -> bool:
    """Return whether the libraries that run an export are installed."""
    return all(find_spec(name) for name in RUNTIME_PACKAGES)


def can_export_onnx(config: EncoderConfig) -> bool:
    """Return whether an encoder of this kind can be exported with the installed libraries."""
    return isinstance(config, SentenceTransformersEncoderConfig) and can_run_onnx() and find_spec("onnx") is not None


def ensure_onnx_export(root: Root, process: EncoderProcess, config: EncoderConfig, *, fingerprint: str, items: Path) -> None:
    """Export an encoder to ONNX for serving, unless it was done before or cannot be done. Never fails the build.

    A sample of texts of all lengths is encoded by both the export and the encoder. If a text's cosine is below
    `MIN_COSINE`, or the model cannot be exported, no files are stored, and queries are encoded by the encoder itself.

    Args:
        root: The storage root.
        process: Exports and compares.
        config: The encoder.
        fingerprint: The fingerprint of the encoder of queries in float32.
        items: The table of the encoded texts.
    """
    if not can_export_onnx(config):
        return
    previous = load_onnx_export(root, fingerprint)
    if previous is not None and not is_damaged(root, previous):
        return
    for path in root.list_files(root.onnx_export(fingerprint), "*"):
        root.remove(path)
    with root.scratch.staging() as staging, track("exporting the encoder", 1) as advance:
        job = ExportTextEncoder(
            ModelSpec(config, "float32", "text", role="query"),
            sample=str(_write_length_sample(root, items, staging / "sample.parquet")),
            graph_path=str(staging / "graph.onnx"),
            tokenizer_path=str(staging / "tokenizer.json"),
        )
        try:
            result = process.export(job)
        except WorkerLost:
            return  # most likely out of memory: the next build tries again
        except (IndexmillError, RuntimeError):
            result = FAILED_EXPORT
        record = OnnxExport(**result._asdict(), passes=result.min_cosine >= MIN_COSINE)
        if record.passes:
            refs = {}
            for name, path in (("graph", Path(job.graph_path)), ("tokenizer", Path(job.tokenizer_path))):
                root.commit(path, target := root.onnx_export(fingerprint) / path.name)
                refs[name] = root.make_ref(target)
            record = record.model_copy(update=refs)
        save_onnx_export(root, fingerprint, record)
        advance(1)


def _write_length_sample(root: Root, items: Path, target: Path) -> Path:
    """Sort the texts by length into SAMPLE_SIZE equal groups, and write the longest text of each."""
    groups = f"SELECT text, ntile({SAMPLE_SIZE}) OVER (ORDER BY length(text), content_digest) AS part"
    sql = f"SELECT arg_max(text, length(text)) AS text FROM ({groups} FROM {parquet.scan_sql(items)}) GROUP BY part"
    parquet.copy_query(sql, target, temp_dir=root.tmp)
    return target
