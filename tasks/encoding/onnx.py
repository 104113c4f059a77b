"""Run a text encoder that was exported to ONNX without importing torch, and export one that has no export yet."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from indexmill.configs.encoders import EncoderConfig, SentenceTransformersEncoderConfig
from indexmill.storage import parquet
from indexmill.storage.atomic import commit
from indexmill.storage.errors import IndexmillError
from indexmill.storage.onnx_exports import OnnxExport, is_damaged, load_onnx_export, save_onnx_export
from indexmill.storage.records import EmbeddingSet, Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoding.base import EncodedItems
from indexmill.tasks.encoding.identity import identify
from indexmill.tasks.encoding.process import EncoderProcess, WorkerLost
from indexmill.tasks.encoding.protocol import ExportResult, ExportTextEncoder, ModelSpec
from indexmill.tasks.progress import track

BATCH_SIZE = 64
log = logging.getLogger("indexmill.encoders")
RUNTIME_PACKAGES = ("onnxruntime", "tokenizers")


class OnnxTextEncoder:
    """An Encoder of texts. graph, tokenizer: files as `indexmill.tasks.encoding.onnx_writer` writes them."""

    modality: Modality = "text"
    decode_size: tuple[int, int] | None = None

    def __init__(self, graph: Path, tokenizer: Path, prompt: str, dim: int) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options: Any = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Its threads would otherwise spin while they wait, and take the cores from those who ask.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_inputs()]
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._prompt, self.dim = prompt, dim
        self.batch_size = self.window = BATCH_SIZE

    def preprocess(self, item: str) -> str:
        """The text itself: `encode` cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> EncodedItems:
        """float32 (n, dim) for n texts; those of about one length share a batch."""
        encoded = EncodedItems(np.empty((len(prepared), self.dim), np.float32), np.zeros(len(prepared), bool))
        order = sorted(range(len(prepared)), key=lambda position: len(prepared[position]))
        for start in range(0, len(order), batch_size):
            positions = order[start : start + batch_size]
            tokens = self._tokenizer.encode_batch([self._prompt + prepared[position] for position in positions])
            given = {
                "input_ids": [one.ids for one in tokens],
                "attention_mask": [one.attention_mask for one in tokens],
                "token_type_ids": [one.type_ids for one in tokens],
            }
            inputs = {name: np.array(given[name], np.int64) for name in self._names}
            encoded.vectors[positions] = self._session.run(None, inputs)[0]
            encoded.truncated[positions] = [bool(one.overflowing) for one in tokens]
        return encoded


def open_onnx_encoder(root: Root, model: str) -> OnnxTextEncoder | None:
    """What was made of the model (its fingerprint in float32) under this root; None where that is nothing, unsound, or cannot run here."""
    export = load_onnx_export(root, model)
    if export is None or not export.passes or len(export.files) != 2 or is_damaged(root, export) or not can_run_onnx():
        return None
    graph, tokenizer = (root.file(ref) for ref in export.files)
    try:
        return OnnxTextEncoder(graph, tokenizer, export.prompt, export.dim)
    except Exception as error:
        # An onnxruntime that does not know the graph's form has errors of its own; the encoder itself answers then.
        log.warning("the exported encoder cannot be opened: %s", error)
        return None


def can_run_onnx() -> bool:
    """Whether the libraries that an export needs to run are installed."""
    return all(find_spec(name) for name in RUNTIME_PACKAGES)


MIN_COSINE = 0.9999
SAMPLE_SIZE = 64
FAILED_EXPORT = ExportResult(dim=0, prompt="", compared_texts=0, min_cosine=0.0)


def ensure_onnx_export(root: Root, process: EncoderProcess, config: EncoderConfig, query_embeddings: EmbeddingSet) -> None:
    """Write the encoder as an ONNX graph under the root, unless that was done before or the libraries for it are not installed.

    A sample of the data set's texts, of all lengths, is encoded both ways; where one text's vectors are not within LEAST_COSINE, or the
    model has no such form, no files are kept, and text queries go on being encoded as the items were. No build fails for it.
    """
    if (
        not isinstance(config, SentenceTransformersEncoderConfig)
        or query_embeddings.modality != "text"
        or not (can_run_onnx() and find_spec("onnx"))
    ):
        return
    model = identify(config).fingerprint
    known = load_onnx_export(root, model)
    if known is not None and not is_damaged(root, known):
        return
    shutil.rmtree(root.onnx_export(model), ignore_errors=True)
    with root.scratch.staging() as staging, track("exporting the encoder", 1) as advance:
        sample = _write_length_sample(root, query_embeddings, staging / "sample.parquet")
        graph, tokenizer = staging / "graph.onnx", staging / "tokenizer.json"
        try:
            result = process.export(ExportTextEncoder(ModelSpec(config, "float32", "text"), str(sample), str(graph), str(tokenizer)))
        except WorkerLost:
            return  # for want of memory, most likely: another night there may be enough
        except (IndexmillError, RuntimeError):
            result = FAILED_EXPORT
        export = OnnxExport(**result._asdict(), passes=result.min_cosine >= MIN_COSINE)
        if export.passes:
            refs = {}
            for name, file in (("graph", graph), ("tokenizer", tokenizer)):
                commit(file, target := root.onnx_export(model) / file.name)
                refs[name] = root.make_ref(target)
            export = export.model_copy(update=refs)
        save_onnx_export(root, model, export)
        advance(1)


def _write_length_sample(root: Root, query_embeddings: EmbeddingSet, target: Path) -> Path:
    """The longest text of each of SAMPLE equal parts of the items by length."""
    parts = f"SELECT text, ntile({SAMPLE_SIZE}) OVER (ORDER BY length(text), content_digest) AS part"
    sql = f"SELECT arg_max(text, length(text)) AS text FROM ({parts} FROM {parquet.scan_sql(root.file(query_embeddings.items))}) GROUP BY part"
    parquet.copy_query(sql, target, temp_dir=root.tmp)
    return target
