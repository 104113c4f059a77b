"""The report: one HTML file that opens from disk with no network, verdict first."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from storage.manifests import Manifest
from storage.records import Evaluation
from tasks.checks.images import UNLIMITED, UnreadableImage, read_image
from tasks.reports import plots

THUMBNAIL = 112

HEADLINES = {
    "map": "mAP",
    "precision_at_1": "precision@1",
    "precision_at_10": "precision@10",
    "recall_at_10": "recall@10",
    "mrr": "MRR",
    "ann_recall_at_10": "ANN recall@10",
}


def render_report(
    manifest: Manifest, description: str, before: dict[str, float], rejects: dict[str, int], evaluation: Evaluation, study: dict[str, Any]
) -> str:
    """The page as text. Everything from data is escaped by the template; before: the live snapshot's metrics, {} when there is none."""
    environment = Environment(
        loader=PackageLoader("tasks.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    projected = study["projection"]
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        description=description,
        headlines=[(label, evaluation.metrics[name], before.get(name)) for name, label in HEADLINES.items() if name in evaluation.metrics],
        rejects=rejects,
        evaluation=evaluation,
        labels=sorted(study["by_label"], key=lambda row: (-row["queries"], row["label"]))[:40],
        examples=[_pictured(example, manifest.base) for example in study["examples"]],
        cutoffs=plots.by_cutoff(evaluation.metrics, sorted(manifest.config["evaluation"]["k"])),
        projection=plots.projection(projected["points"], projected["labels"], projected["explained"]) if projected["points"] else "",
        provenance=json.dumps(manifest.config, indent=2, ensure_ascii=False),
    )


def _pictured(example: dict[str, Any], base: str | None) -> dict[str, Any]:
    """The example with a thumbnail beside every item that is an image."""

    def pictured(item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "thumbnail": thumbnail(Path(base) / item["path"]) if base else None}

    return {"query": pictured(example["query"]), "results": [pictured(item) for item in example["results"]]}


def thumbnail(path: Path) -> str | None:
    """The image as a small JPEG in a data: URL; None when it cannot be read any more."""
    try:
        image = read_image(path.read_bytes(), UNLIMITED)
    except (OSError, UnreadableImage):
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def render_html(contents: Any) -> str:
    """Stands in until the page is rewritten."""
    return "<!doctype html><title>" + contents.figures.name + "</title>"
