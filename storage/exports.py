"""An encoder of texts as files that are read without the libraries that made it: made once for each encoder, believed by digest."""

from __future__ import annotations

from indexmill.storage.records import FileRef, Frozen
from indexmill.storage.root import Root, problem_of


class Export(Frozen):
    """One graph from tokens to finished vectors (ONNX), and the tokenizer that makes its tokens.

    prompt: what is put before every text. compared, least_cosine: texts of the user's own that were encoded by the graph and by the encoder
    itself in float32, and the least cosine of the two vectors of a text. holds: whether that is near enough to answer instead of it; what
    did not hold is kept without its files, so that it is not tried every night.
    """

    dim: int
    prompt: str
    compared: int
    least_cosine: float
    holds: bool
    graph: FileRef | None = None
    tokenizer: FileRef | None = None

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Graph and tokenizer, where they were kept."""
        return tuple(ref for ref in (self.graph, self.tokenizer) if ref)


def recall_export(root: Root, model: str) -> Export | None:
    """What was made of a model (its fingerprint); None when nothing was, or when it cannot be read."""
    try:
        return Export.model_validate_json((root.exported(model) / "export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def damaged(root: Root, export: Export) -> bool:
    """Whether a file of it is gone or has another SHA-256."""
    return any(problem_of(root.file(ref), ref, digest=True) for ref in export.files)


def remember_export(root: Root, model: str, export: Export) -> None:
    """Keep it, after its files."""
    root.write_record(root.exported(model) / "export.json", export)
