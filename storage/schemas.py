"""Write the published JSON Schemas of the manifest and of metrics.json: `python -m indexmill.storage.schemas [FOLDER]`.

Run it after a change of `Manifest` or `MetricsFile`, docstrings and field descriptions included. FOLDER is docs by
default.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile
from indexmill.storage.records import FrozenModel

SCHEMA_FILES: dict[str, type[FrozenModel]] = {"manifest.schema.json": Manifest, "metrics.schema.json": MetricsFile}


def render_schema(model: type[FrozenModel]) -> str:
    """Return the JSON Schema (draft 2020-12) of a model as indented JSON."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write every schema into `folder`."""
    for name, model in SCHEMA_FILES.items():
        (folder / name).write_text(render_schema(model), encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
