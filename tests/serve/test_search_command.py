"""`indexmill search`, beyond what tests/flows/test_cli.py asks of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app


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
