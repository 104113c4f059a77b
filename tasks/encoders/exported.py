"""Texts by an exported graph: the vectors of the model that it was made of, without torch and its seconds of importing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from indexmill.storage.exports import damaged, recall_export
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoders.encoding import Encoded

BATCH = 64
log = logging.getLogger("indexmill.encoders")
NEEDED = ("onnxruntime", "tokenizers")


class ExportedTexts:
    """An Encoder of texts. graph, tokenizer: files as `indexmill.tasks.encoders.exporting` writes them."""

    modality: Modality = "text"
    wants: tuple[int, int] | None = None

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
        self.batch_size = self.window = BATCH

    def prepare(self, item: str) -> str:
        """The text itself: `encode` cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> Encoded:
        """float32 (n, dim) for n texts; those of about one length share a batch."""
        encoded = Encoded(np.empty((len(prepared), self.dim), np.float32), np.zeros(len(prepared), bool))
        order = sorted(range(len(prepared)), key=lambda place: len(prepared[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            tokens = self._tokenizer.encode_batch([self._prompt + prepared[place] for place in places])
            given = {
                "input_ids": [one.ids for one in tokens],
                "attention_mask": [one.attention_mask for one in tokens],
                "token_type_ids": [one.type_ids for one in tokens],
            }
            inputs = {name: np.array(given[name], np.int64) for name in self._names}
            encoded.vectors[places] = self._session.run(None, inputs)[0]
            encoded.truncated[places] = [bool(one.overflowing) for one in tokens]
        return encoded


def open_export(root: Root, model: str) -> ExportedTexts | None:
    """What was made of the model (its fingerprint in float32) under this root; None where that is nothing, unsound, or cannot run here."""
    export = recall_export(root, model)
    if export is None or not export.holds or len(export.files) != 2 or damaged(root, export) or not runs_here():
        return None
    graph, tokenizer = (root.file(ref) for ref in export.files)
    try:
        return ExportedTexts(graph, tokenizer, export.prompt, export.dim)
    except Exception as problem:
        # An onnxruntime that does not know the graph's form has errors of its own; the encoder itself answers then.
        log.warning("the exported encoder cannot be opened: %s", problem)
        return None


def runs_here() -> bool:
    """Whether the libraries that an export needs to run are installed."""
    return all(find_spec(name) for name in NEEDED)
