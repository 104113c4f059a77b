"""A whole pipeline whose encoder, source and measure come from a package that pip has installed into an environment of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import sysconfig
import venv
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import indexmill
from indexmill.storage.errors import InputError
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.extensions.packages import write_example_package

REPOSITORY = Path(__file__).parents[2]
KINDS = ["lamp", "chair", "table", "shelf"]
CONFIG = """
name: acme
dataset: {source: python, target: products, options: {path: PATH}}
encoder: {kind: python, target: hashed-words, modalities: [text], options: {dim: 64}}
evaluation: {measures: [label-diversity], encode_latency_queries: 0, projection_seconds: 0}
publish: {gate: {minimum: {labels_in_first_10: 1, map: 0.5}}}
"""


class Environment:
    """A virtual environment with the package of the guides, which also sees what this one has."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "env", with_pip=False)
        self.python = folder / "env" / "bin" / "python"
        (site,) = (folder / "env").glob("lib/python*/site-packages")
        (site / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n{REPOSITORY}\n")
        self.package = write_example_package(folder / "acme")
        self.install()

    def install(self) -> None:
        """Install the package as it is now."""
        options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", *options, self.package]
        subprocess.run(command, check=True, timeout=300, env=os.environ | {"PYTHONPATH": ""})

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run `indexmill` in it."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [str(part) for part in (self.python, "-m", "indexmill", *arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=self.package.parent)

    def run_json(self, *arguments: object) -> Any:
        run = self.run(*arguments, "--json")
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)


def write_products(path: Path) -> None:
    """25 lamps, chairs, tables and shelves, each with a word of its own."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE products (sku INTEGER, title TEXT, category TEXT)")
        rows = [(number, f"{KINDS[number % 4]} {KINDS[number % 4]} model{number}", KINDS[number % 4]) for number in range(100)]
        connection.executemany("INSERT INTO products VALUES (?, ?, ?)", rows)


@pytest.mark.slow
def test_a_pipeline_of_ones_own_is_built_searched_and_kept_up(server: str, tmp_path: Path) -> None:
    """Encoder, source and measure by their entry points. One new row encodes one text."""
    environment, root, config = Environment(tmp_path), tmp_path / "root", tmp_path / "acme.yaml"
    write_products(tmp_path / "products.db")
    config.write_text(CONFIG.replace("PATH", str(tmp_path / "products.db")))

    summary = environment.run_json("build", config, "--root", root)
    assert summary["published"]
    assert summary["metrics"]["labels_in_first_10"] >= 1
    manifest = Snapshots(Root(root), "acme").read_manifest()
    assert manifest.encoder["libraries"] == {"acme-search": "1.0"}
    assert manifest.encoder["target"] == "acme_search.encoder:HashedWords"
    (report,) = root.glob("indexes/acme/snapshots/*/report")
    rules = {rule["rule"]: rule for rule in json.loads((report / "metrics.json").read_text())["gate"]}
    assert rules["minimum.labels_in_first_10"]["measured"] == summary["metrics"]["labels_in_first_10"]
    assert "labels_in_first_10" in (report / "report.md").read_text()
    column = pq.read_table(report / "per_query.parquet")["labels_in_first_10"].to_pylist()
    assert sum(column) / len(column) == pytest.approx(summary["metrics"]["labels_in_first_10"])
    found = environment.run_json("search", "acme", "lamp model4", "--root", root)
    assert found["results"][0]["key"] == "4"

    with closing(sqlite3.connect(tmp_path / "products.db")) as connection, connection:
        connection.execute("INSERT INTO products VALUES (100, 'sofa sofa', 'chair')")
    assert environment.run_json("build", config, "--root", root)["encoded"] == 1

    project = environment.package / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "1.0"', 'version = "1.1"'))
    environment.install()
    outdated = environment.run("search", "acme", "lamp model4", "--root", root)
    assert outdated.returncode == 2
    assert "the installed encoder is not the one that built this snapshot" in outdated.stderr

    # This environment does not have the package.
    with indexmill.open_index(str(root), "acme") as index, pytest.raises(InputError, match="no installed distribution"):
        index.search(texts=["lamp"])
