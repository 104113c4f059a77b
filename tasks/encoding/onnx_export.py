"""Export an encoder to ONNX for serving, once per encoder and modality, and check the export on items of the build."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from indexmill.configs.encoders import (
    EfficientNetLiteEncoderConfig,
    EncoderConfig,
    OpenClipEncoderConfig,
    SentenceTransformersEncoderConfig,
    TimmEncoderConfig,
)
from indexmill.storage import parquet
from indexmill.storage.errors import IndexmillError, SourceChanged, SourceUnreachable
from indexmill.storage.onnx_exports import ExportSettings, OnnxExport, get_weights_path, is_damaged, load_onnx_export, save_onnx_export
from indexmill.storage.records import Modality
from indexmill.storage.root import Root
from indexmill.tasks.encoding.onnx_encoders import can_run_onnx
from indexmill.tasks.encoding.process import EncoderProcess, WorkerLost
from indexmill.tasks.encoding.protocol import ExportEncoder, ExportResult, ModelSpec
from indexmill.tasks.progress import track

EXPORTED_KINDS = (SentenceTransformersEncoderConfig, OpenClipEncoderConfig, TimmEncoderConfig, EfficientNetLiteEncoderConfig)
WRITER_PACKAGES = ("onnx", "onnxscript")
MIN_COSINE = 0.9999  # an export with a lower one is not used
TEXT_SAMPLE_SIZE, IMAGE_SAMPLE_SIZE = 64, 32  # items that are encoded by both the export and the encoder
FAILED_EXPORT = ExportResult(dim=0, settings=ExportSettings(), compared=0, min_cosine=0.0)
# What a CLIP model's texts are compared on in a data set of images without captions.
QUERY_TEXTS = (
    "cat",
    "a photo of a dog",
    "two people riding bicycles along a river at sunset",
    "Ünïcode &amp; émigrés, 日本語 🙂",
    "3 red apples on a wooden table",
    "an aerial view of a harbour, with many small boats and a lighthouse in the distance, " * 5,
)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to export, and what to compare it on.

    Attributes:
        config: The encoder.
        fingerprint: What names the export (`EncoderIdentity.for_export`).
        modality: What it encodes.
        items: A table of encoded items of that modality; None where there are only texts of our own.
        image_root: The folder that image paths are relative to; None for texts.
    """

    config: EncoderConfig
    fingerprint: str
    modality: Modality
    items: Path | None
    image_root: str | None = None


def can_export_onnx(config: EncoderConfig) -> bool:
    """Return whether an encoder of this kind can be exported with the installed libraries."""
    return isinstance(config, EXPORTED_KINDS) and has_onnx_libraries()


def has_onnx_libraries() -> bool:
    """Return whether the libraries that write and run exports are installed."""
    return can_run_onnx() and all(find_spec(name) for name in WRITER_PACKAGES)


def ensure_onnx_export(root: Root, process: EncoderProcess, request: ExportRequest) -> None:
    """Export one modality of an encoder to ONNX, unless it was done before or cannot be done. Never fails the build.

    A sample of items is encoded by both the export and the encoder. If an item's cosine is below `MIN_COSINE`, or the model
    cannot be exported, no files are stored, and queries are encoded by the encoder itself.

    Args:
        root: The storage root.
        process: Exports and compares.
        request: What to export.
    """
    fingerprint, modality = request.fingerprint, request.modality
    if not can_export_onnx(request.config):
        return
    previous = load_onnx_export(root, fingerprint, modality)
    if previous is not None and not is_damaged(root, previous):
        return
    folder = root.onnx_export(fingerprint, modality)
    for path in root.list_files(folder, "*"):
        root.remove(path)
    with root.scratch.staging() as staging, track(f"exporting the encoder of {modality}s", 1) as advance:
        job = ExportEncoder(
            ModelSpec(request.config, "float32", modality, role="query"),
            sample=str(_write_sample(root, request, staging / "sample.parquet")),
            image_root=request.image_root,
            graph_path=str(staging / "graph.onnx"),
            tokenizer_path=str(staging / "tokenizer.json"),
        )
        try:
            result = process.export(job)
        except (WorkerLost, SourceChanged, SourceUnreachable):
            return  # out of memory, most likely, or without the images: the next build tries again
        except (IndexmillError, RuntimeError):
            result = FAILED_EXPORT
        record = OnnxExport(**result._asdict(), passes=result.min_cosine >= MIN_COSINE)
        if record.passes:
            refs, graph_path = {}, Path(job.graph_path)
            paths = {"graph": graph_path, "weights": get_weights_path(graph_path), "tokenizer": Path(job.tokenizer_path)}
            for name, path in paths.items():
                if path.is_file():
                    root.commit(path, target := folder / path.name)
                    refs[name] = root.make_ref(target)
            record = record.model_copy(update=refs)
        save_onnx_export(root, fingerprint, modality, record)
        advance(1)


def _write_sample(root: Root, request: ExportRequest, target: Path) -> Path:
    """Write the items to compare on: images with the smallest digests, or texts of all lengths."""
    if request.items is None:
        texts = ", ".join("'" + text.replace("'", "''") + "'" for text in QUERY_TEXTS)
        sql = f"SELECT unnest([{texts}]) AS text"
    elif request.modality == "image":
        columns = f"DISTINCT ON (content_digest) item_id, content_digest, path FROM {parquet.scan_sql(request.items)}"
        sql = f"SELECT {columns} ORDER BY content_digest, item_id LIMIT {IMAGE_SAMPLE_SIZE}"
    else:  # sorted by length into equal groups, the longest text of each
        groups = f"SELECT text, ntile({TEXT_SAMPLE_SIZE}) OVER (ORDER BY length(text), content_digest) AS part"
        sql = f"SELECT arg_max(text, length(text)) AS text FROM ({groups} FROM {parquet.scan_sql(request.items)}) GROUP BY part"
    parquet.copy_query(sql, target, temp_dir=root.tmp)
    return target
