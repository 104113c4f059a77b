"""Records of text encoders exported to ONNX: one export per encoder, verified by digest before use."""

from __future__ import annotations

from indexmill.storage.records import FileRef, FrozenModel
from indexmill.storage.root import Root, find_file_error


class OnnxExport(FrozenModel):
    """One graph from tokens to finished vectors (ONNX), and the tokenizer that makes its tokens.

    prompt: what is put before every text. compared, least_cosine: texts of the user's own that were encoded by the graph and by the encoder
    itself in float32, and the least cosine of the two vectors of a text. holds: whether that is near enough to answer instead of it; what
    did not hold is kept without its files, so that it is not tried every night.
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
        """Graph and tokenizer, where they were kept."""
        return tuple(ref for ref in (self.graph, self.tokenizer) if ref)


def load_onnx_export(root: Root, model: str) -> OnnxExport | None:
    """What was made of a model (its fingerprint); None when nothing was, or when it cannot be read."""
    try:
        return OnnxExport.model_validate_json((root.onnx_export(model) / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_damaged(root: Root, export: OnnxExport) -> bool:
    """Whether a file of it is gone or has another SHA-256."""
    return any(find_file_error(root.file(ref), ref, digest=True) for ref in export.files)


def save_onnx_export(root: Root, model: str, export: OnnxExport) -> None:
    """Keep it, after its files."""
    root.write_record(root.onnx_export(model) / "export.json", export)
