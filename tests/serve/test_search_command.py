"""`indexmill search`, beyond what tests/flows/test_cli.py asks of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from indexmill.configs.encoders import SentenceTransformersEncoderConfig
from indexmill.flows.cli.app import app
from indexmill.serve import open_index
from indexmill.storage.onnx_exports import OnnxExport, save_onnx_export
from indexmill.storage.root import Root
from indexmill.tasks.encoding import identify
from indexmill.tasks.encoding.sentence_transformers import SentenceTransformersModel

ASKING = """
import sys
from indexmill.flows.cli.search import search_index
found = search_index(sys.argv[1], "sentences", text="a boat at sea", image=None, k=4)
slow = {"torch", "transformers", "sentence_transformers", "pandas", "polars", "sklearn", "scipy", "matplotlib", "fastapi"} & {*sys.modules}
print([(item["item_id"], round(item["score"], 4)) for item in found["results"]], sorted(slow))
"""


def test_search_filters_by_label_names_a_snapshot_and_writes_a_sheet(published: Path, digits: Path, tmp_path: Path) -> None:
    """All twelve of the label and no other; the sheet holds their pictures and asks for nothing from elsewhere."""
    picture, sheet = sorted(digits.rglob("*.png"))[0], tmp_path / "sheet.html"
    snapshot = (published / "indexes/demo-images/current").read_text().strip()
    asked = ["search", "demo-images", "--image", str(picture), "--root", str(published), "-k", "20", "--label", "7", "--snapshot", snapshot]
    run = CliRunner().invoke(app, [*asked, "--show", str(sheet), "--json"])
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout)
    assert [item["label"] for item in answer["results"]] == ["7"] * 12
    assert all(item["distance"] == pytest.approx(1 - item["score"], abs=1e-6) for item in answer["results"])
    page = sheet.read_text()
    assert page.count('src="data:image/jpeg;base64,') == 12
    assert "http:" not in page
    assert "https:" not in page
    assert picture.name in page
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.html"]
    run = CliRunner().invoke(app, [*asked, "--show", str(tmp_path / "no" / "sheet.html")])
    assert run.exit_code == 2
    assert "cannot be written" in run.stderr


def test_a_text_is_looked_for_without_torch_where_the_encoder_was_exported(root_copy: Path) -> None:
    """A process of its own finds what torch found, and imports none of the slow libraries; before the export it needs them."""
    index = open_index(root_copy, "sentences")
    config = SentenceTransformersEncoderConfig.model_validate(index.manifest.config["encoder"])
    expected = [(result.item_id, round(result.score, 4)) for result in index.search(texts=["a boat at sea"], k=4).results[0]]
    place, model = Root(root_copy), identify(config).fingerprint
    graph, tokenizer = (place.onnx_export(model) / name for name in ("graph.onnx", "tokenizer.json"))
    graph.parent.mkdir(parents=True)
    prompt = SentenceTransformersModel(config, "float32").export(graph, tokenizer)
    files = {"graph": place.make_ref(graph), "tokenizer": place.make_ref(tokenizer)}
    save_onnx_export(place, model, OnnxExport(dim=384, prompt=prompt, compared_texts=1, min_cosine=1, passes=True, **files))
    place.close()
    run = subprocess.run([sys.executable, "-c", ASKING, str(root_copy)], capture_output=True, text=True, timeout=120, env=os.environ)
    assert run.stdout.strip() == f"{expected} []", run.stderr
