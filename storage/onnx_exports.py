"""Encoders exported to ONNX: one export per encoder and modality, verified by digest before use."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from indexmill.storage.records import FileRef, FrozenModel, Modality
from indexmill.storage.root import Root, find_file_error


class ImageResize(FrozenModel):
    """How an image gets the size that a model takes.

    method: `squash` resizes both edges, whatever the image's shape; `crop_last` resizes the shorter edge to `short_edge` and
        crops the center; `crop_first` crops the central square and resizes it.
    height, width: Of the result, in pixels.
    filter: The interpolation, with antialiasing.
    """

    method: Literal["squash", "crop_last", "crop_first"]
    height: int
    width: int
    short_edge: int = 0
    filter: Literal["bicubic", "bilinear"]


class ExportSettings(FrozenModel):
    """How items are prepared for an exported graph.

    prompt: The text put before every text.
    tokenization: `model`: the exported tokenizer takes texts; `clip`: it takes the words that CLIP divides a text into.
    resize: How images are resized; None for texts.
    """

    prompt: str = ""
    tokenization: Literal["model", "clip"] = "model"
    resize: ImageResize | None = None


class OnnxExport(FrozenModel):
    """An ONNX graph from tokens or pixels to final vectors, and for texts its tokenizer.

    compared: How many of the user's items both the graph and the encoder itself (in float32) encoded.
    min_cosine: The smallest cosine of the two vectors of an item.
    passes: Whether that is close enough to serve the graph. An export that fails is recorded without files, so that it
        is not tried again.
    graph: The graph's file.
    weights: The file with the graph's weights, which is mapped into memory; None where the graph's file holds them, as in
        older exports.
    tokenizer: The tokenizer's file; None for images.
    """

    dim: int
    settings: ExportSettings
    compared: int
    min_cosine: float
    passes: bool
    graph: FileRef | None = None
    weights: FileRef | None = None
    tokenizer: FileRef | None = None

    @property
    def files(self) -> tuple[FileRef, ...]:
        """The graph, its weights, and the tokenizer of texts; empty for an export that failed its check."""
        return tuple(ref for ref in (self.graph, self.weights, self.tokenizer) if ref)


def get_weights_path(graph_path: Path) -> Path:
    """Return where the weights of a graph are: beside it, under a name that the graph holds."""
    return graph_path.with_name(f"{graph_path.name}.data")


def load_onnx_export(root: Root, model: str, modality: Modality) -> OnnxExport | None:
    """Load the export of a model, named by its fingerprint; None when there is none or it cannot be read."""
    try:
        path = root.fetch(root.onnx_export(model, modality) / "export.json")
        return OnnxExport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_damaged(root: Root, export: OnnxExport) -> bool:
    """Whether a file of the export is missing or has a wrong SHA-256."""
    return any(find_file_error(root.file(ref), ref, digest=True) for ref in export.files)


def save_onnx_export(root: Root, model: str, modality: Modality, export: OnnxExport) -> None:
    """Save the record of an export. Its files must already be in place."""
    root.write_record(root.onnx_export(model, modality) / "export.json", export)
