"""Text encoders exported to ONNX: one export per encoder, verified by digest before use."""

from __future__ import annotations

from indexmill.storage.records import FileRef, FrozenModel
from indexmill.storage.root import Root, find_file_error


class OnnxExport(FrozenModel):
    """An ONNX graph from tokens to final vectors, and its tokenizer.

    prompt: The text put before every input.
    compared_texts: How many of the user's texts both the graph and the encoder itself (in float32) encoded.
    min_cosine: The smallest cosine of the two vectors of a text.
    passes: Whether that is close enough to serve the graph. An export that fails is recorded without files, so that it
        is not tried again.
    """

    dim: int
    prompt: str
    compared_texts: int
    min_cosine: float
    passes: bool
    graph: FileRef | None = None
    tokenizer: FileRef | None = None

    @property
    def files(self) -> tuple[FileRef, ...]:
        """The graph and the tokenizer; empty for an export that failed its check."""
        return tuple(ref for ref in (self.graph, self.tokenizer) if ref)


def load_onnx_export(root: Root, model: str) -> OnnxExport | None:
    """Load the export of a model, named by its fingerprint; None when there is none or it cannot be read."""
    try:
        return OnnxExport.model_validate_json(root.fetch(root.onnx_export(model) / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_damaged(root: Root, export: OnnxExport) -> bool:
    """Whether a file of the export is missing or has a wrong SHA-256."""
    return any(find_file_error(root.file(ref), ref, digest=True) for ref in export.files)


def save_onnx_export(root: Root, model: str, export: OnnxExport) -> None:
    """Save the record of an export. Its files must already be in place."""
    root.write_record(root.onnx_export(model) / "export.json", export)
