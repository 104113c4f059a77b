"""`indexmill search`: filters, contact sheets, and searches without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from typer.testing import CliRunner

from indexmill.flows.cli.app import app
from indexmill.serve import open_index
from indexmill.serve.encoder import QueryEncoder
from indexmill.storage.records import Modality
from indexmill.tasks.encoding.onnx_encoders import OnnxImageEncoder, OnnxTextEncoder

SEARCH_PROGRAM = """
import sys
from pathlib import Path
from indexmill.flows.cli.search import search_index
root, name, text, image = sys.argv[1:]
answer = search_index(root, name, text=text or None, image=Path(image) if image else None, k=4)
libraries = {"torch", "torchvision", "timm", "open_clip", "transformers", "sentence_transformers", "pandas", "polars", "sklearn"}
libraries |= {"scipy", "matplotlib", "fastapi"}
slow_imports = libraries & {*sys.modules}
print([(item["item_id"], round(item["score"], 4)) for item in answer["results"]], sorted(slow_imports))
"""


def test_search_filters_by_label_selects_a_snapshot_and_writes_a_contact_sheet(published: Path, digits: Path, tmp_path: Path) -> None:
    """All twelve items of the label are found; the sheet embeds their images and loads nothing from the network."""
    image, sheet = sorted(digits.rglob("*.png"))[0], tmp_path / "sheet.html"
    snapshot = (published / "indexes/demo-images/current").read_text().strip()
    command = ["search", "demo-images", "--image", str(image), "--root", str(published), "-k", "20", "--label", "7", "--snapshot", snapshot]
    run = CliRunner().invoke(app, [*command, "--show", str(sheet), "--json"])
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout)
    assert [item["label"] for item in answer["results"]] == ["7"] * 12
    assert all(item["distance"] == pytest.approx(1 - item["score"], abs=1e-6) for item in answer["results"])
    page = sheet.read_text()
    assert page.count('src="data:image/jpeg;base64,') == 12
    assert "http:" not in page
    assert "https:" not in page
    assert image.name in page
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.html"]
    run = CliRunner().invoke(app, [*command, "--show", str(tmp_path / "no" / "sheet.html")])
    assert run.exit_code == 2
    assert "cannot be written" in run.stderr


def test_an_image_that_cannot_be_read_is_named_before_the_model_is_loaded(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file, a folder and a text; the formats that can be read are listed."""

    def fail(_: QueryEncoder) -> NoReturn:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(QueryEncoder, "load", fail)
    (tmp_path / "text.jpg").write_text("no image")
    for name, message in (
        ("missing.jpg", "got:      No such file or directory"),
        ("", "got:      Is a directory"),
        ("text.jpg", "JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000, ICO"),
    ):
        path = tmp_path / name
        run = CliRunner().invoke(app, ["search", "demo-images", "--image", str(path), "--root", str(published)])
        assert run.exit_code == 2, run.output
        assert f"where:    {path}\n" in run.stderr and message in run.stderr and "next:" in run.stderr


def test_a_label_that_no_item_has_is_reported(published: Path, digits: Path) -> None:
    """Instead of an empty table; it is no error."""
    command = ["search", "demo-images", "--image", str(sorted(digits.rglob("*.png"))[0]), "--root", str(published), "--label"]
    run = CliRunner().invoke(app, [*command, "[purple]"])
    assert run.exit_code == 0 and "no item of this snapshot has the label '[purple]'" in run.stdout and "rank" not in run.stdout
    run = CliRunner().invoke(app, [*command, "7"])
    assert "rank" in run.stdout and "no item" not in run.stdout


def check_search_without_torch(root: Path, folder: Path, name: str, *, text: str = "", image: str = "") -> None:
    """Check that a separate process finds what torch finds and imports none of the slow libraries. `folder` is for a copy.

    The manifest names the export, so that the weights are not read, and may be gone or replaced.
    """
    modality: Modality = "text" if text else "image"
    with pytest.MonkeyPatch.context() as patch, open_index(root, name) as index:
        patch.setattr("indexmill.serve.encoder.identify", None)
        assert isinstance(index.encoder.load(modality), OnnxTextEncoder | OnnxImageEncoder)
    copy = Path(shutil.copytree(root, folder))
    shutil.rmtree(copy / "encoders")  # without the exports, torch encodes
    query: dict[str, Any] = {"texts": [text]} if text else {"images": [image]}
    with open_index(copy, name) as index:
        assert not isinstance(index.encoder.load(modality), OnnxTextEncoder | OnnxImageEncoder)
        expected = [(result.item_id, round(result.score, 4)) for result in index.search(**query, k=4).results[0]]
    arguments = [str(root), name, text, image]
    run = subprocess.run(
        [sys.executable, "-c", SEARCH_PROGRAM, *arguments], capture_output=True, text=True, timeout=900, env=os.environ, check=False
    )
    assert run.stdout.strip() == f"{expected} []", run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentences", "demo-images"])
def test_an_exported_encoder_searches_without_torch(name: str, published: Path, digits: Path, tmp_path: Path) -> None:
    """The real models; `tests/flows/test_encode_stage.py` does it with a tiny one."""
    query = {"text": "a boat at sea"} if name == "sentences" else {"image": str(sorted(digits.rglob("*.png"))[0])}
    check_search_without_torch(published, tmp_path / "copy", name, **query)
