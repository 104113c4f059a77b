"""Sources of one's own: rows in batches, what is rejected and what is an error, and what is listed again."""

from __future__ import annotations

import inspect
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from PIL import Image

from indexmill.configs.datasets import PythonDatasetConfig
from indexmill.configs.models import ValidateConfig
from indexmill.storage.contents import read_content_digest
from indexmill.storage.errors import InputError, SourceUnreachable
from indexmill.storage.root import Root
from indexmill.tasks.extensions.protocols import PythonSource
from indexmill.tasks.ingest import ingest
from indexmill.tasks.sources import Item, open_source
from indexmill.tasks.sources.revisions import read_source_revision
from indexmill.tasks.validate import validate
from tests.extensions.packages import DOCS, install_package, read_example
from tests.stage_inputs import read_rows, set_mtime

CODE = """
import pyarrow as pa

READS = []

class Rows:
    modality, labeled, image_root = "text", False, None

    def __init__(self, rows=(), version=None, arrow=False, **attributes):
        self.rows, self.version, self.arrow = rows, version, arrow
        vars(self).update(attributes)

    def compute_version(self):
        return self.version

    def iterate_batches(self):
        READS.append(len(self.rows))
        for start in range(0, len(self.rows), 2):
            rows = self.rows[start:start + 2]
            if rows == ["fail"]:
                raise {"network": TimeoutError, "other": ValueError}[self.version]("no answer")
            yield pa.RecordBatch.from_pylist(rows) if self.arrow else rows

class Surrogates(Rows):
    def iterate_batches(self):
        yield [{"key": "a", "text": chr(0xdc80)}, {"key": chr(0xdc80), "text": "b"}]

class Bad(Rows):
    def iterate_batches(self):
        yield {"key": "a", "text": "b"}
"""


@pytest.fixture
def package(site: Path) -> Iterator[Path]:
    yield install_package(site, "acme-rows", {"code": CODE}, entry_points={"indexmill.sources": {"acme": "acme_rows.code:Rows"}})


def make_config(name: str = "Rows", **options: Any) -> PythonDatasetConfig:
    return PythonDatasetConfig(source="python", target=f"acme_rows.code:{name}", options=options)


def list_items(root: Root, name: str = "Rows", **options: Any) -> list[Item]:
    return list(open_source(make_config(name, **options), root).items())


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("arrow", [False, True])
def test_rows_become_items(arrow: bool, root: Root) -> None:
    """Of mappings or of Arrow batches; numbers are keys and labels, and what is missing is empty."""
    rows = [
        {"key": 7, "text": "seven", "label": 1, "split": "test"},
        {"key": 8, "text": None, "label": None, "split": None},
        {"key": 9, "text": "nine", "label": 2, "split": "train"},
    ]
    expected = [Item("7", "1", "seven", split="test"), Item("8", None, ""), Item("9", "2", "nine", split="train")]
    assert list_items(root, rows=rows, arrow=arrow) == expected


@pytest.mark.usefixtures("package")
def test_an_image_is_below_the_folder(root: Root, tmp_path: Path) -> None:
    """By a relative or an absolute path; one that leads out, or is missing, is for validation to reject."""
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(folder / "a" / "1.png")
    paths = ["a/1.png", str(folder / "a" / "1.png"), "../outside.png", None, "a/2.png"]
    rows = [{"key": str(number), "path": path, "caption": "black"} for number, path in enumerate(paths)]
    settings: dict[str, Any] = {"rows": rows, "modality": "image", "image_root": str(folder)}
    items = list_items(root, **settings)
    assert [item.path for item in items] == ["a/1.png", "a/1.png", None, None, "a/2.png"]
    assert [item.size is None for item in items] == [False, False, True, True, True]
    assert {item.text for item in items} == {"black"}
    dataset = ingest.fn(root, "some", make_config(**settings), "r")
    validated = validate.fn(root, dataset, ValidateConfig(max_reject_fraction=1))
    assert validated.rejected_by_reason == {"missing_path": 2, "unopenable": 1}


@pytest.mark.usefixtures("package")
def test_a_value_that_is_no_text_is_rejected(root: Root) -> None:
    """Row by row; the key stays if it can."""
    rows = [{"key": "a", "text": ["x"]}, {"key": 1.5, "text": "x"}, {"key": "b", "text": "fine"}, {"key": "c", "text": "x", "label": True}]
    assert [(item.key, item.fault) for item in list_items(root, rows=rows)] == [
        ("a", "text is no text: an object of class list"),
        ("row 1", "key is no text: an object of class float"),
        ("b", None),
        ("c", "label is no text: an object of class bool"),
    ]
    faults = [item.fault or "" for item in list_items(root, "Surrogates")]
    assert [fault.partition(":")[0] for fault in faults] == ["text", "key"]
    dataset = ingest.fn(root, "some", make_config(rows=rows), "r")
    assert validate.fn(root, dataset, ValidateConfig(max_reject_fraction=1)).rejected_by_reason == {"malformed_row": 3}


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("options", "message", "got"), [
    ({"rows": [{"key": "a", "txt": "b"}]}, "columns of its modality", "{'key': 'a', 'txt': 'b'}"),
    ({"rows": [{"text": "b"}]}, "columns of its modality", "{'text': 'b'}"),
    ({"rows": ["a"]}, "columns of its modality", "a"),
    ({"name": "Bad"}, "a batch is no list of rows", "{'key': 'a', 'text': 'b'}"),
    ({"modality": "sound"}, "no modality", "sound"),
    ({"labeled": None}, "whether its rows are labeled", "None"),
    ({"modality": "image"}, "no folder of images", "None"),
    ({"modality": "image", "image_root": "/nowhere"}, "no folder of images", "/nowhere"),
    ({"rows": [{}], "version": 3}, "compute_version returned something else", "an object of class int"),
])  # fmt: skip
def test_what_every_row_would_have_is_an_error(options: dict[str, Any], message: str, got: str, root: Root) -> None:
    """A column that there is not, a batch or an attribute that the protocol does not know."""
    config = make_config(options.pop("name", "Rows"), **options)
    with pytest.raises(InputError, match=message) as failed:
        open_source(config, root).compute_revision()
    assert failed.value.got == got
    assert "acme_rows.code" in failed.value.where


@pytest.mark.usefixtures("package")
def test_errors_of_a_source_have_its_line(root: Root) -> None:
    """A service that does not answer is retried; ingest has a policy for that."""
    for version, error_class in (("network", SourceUnreachable), ("other", InputError)):
        with pytest.raises(error_class, match="no answer") as failed:
            list_items(root, rows=[{"key": "a", "text": "b"}, {"key": "b", "text": "b"}, "fail"], version=version)
        assert "(code.py, line" in failed.value.got


def test_a_version_spares_the_rows_and_a_new_package_does_not(package: Path, root: Root) -> None:
    """Without a version, the rows decide; with one, they are not read. The package's own version always counts."""
    rows = [{"key": "a", "text": "x"}]

    def revision(**options: Any) -> str:
        return read_source_revision(make_config(**options), root)

    with_version, without = revision(rows=rows, version="1"), revision(rows=rows)
    from acme_rows.code import READS  # type: ignore[import-not-found]

    assert READS == [1]
    assert revision(rows=[*rows, {"key": "b", "text": "y"}], version="1") == with_version != revision(rows=rows, version="2")
    assert revision(rows=rows) == without != revision(rows=[{"key": "a", "text": "y"}])
    (package / "acme_rows-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rows\nVersion: 1.1\n")
    assert revision(rows=rows, version="1") != with_version
    assert revision(rows=rows) != without


@pytest.mark.usefixtures("package")
def test_an_unchanged_image_is_not_read_again(root: Root, tmp_path: Path) -> None:
    """By path, size and modification time, as in a folder. A changed one is."""
    for name in ("a", "b"):
        Image.new("RGB", (9, 9), (name == "a" and "red") or "blue").save(tmp_path / f"{name}.bmp")
        set_mtime(tmp_path / f"{name}.bmp")
    rows = [{"key": name, "path": f"{name}.bmp"} for name in ("a", "b")]
    config = make_config(rows=rows, modality="image", image_root=str(tmp_path))
    digests = {row["key"]: row["content_digest"] for row in read_rows(root, ingest.fn(root, "some", config, "1").table)}
    shutil.copy(tmp_path / "b.bmp", tmp_path / "a.bmp")
    with patch("indexmill.tasks.ingest.read_content_digest", wraps=read_content_digest) as read:
        again = {row["key"]: row["content_digest"] for row in read_rows(root, ingest.fn(root, "some", config, "2").table)}
    assert [call.args[1] for call in read.call_args_list] == ["a.bmp"]
    assert again == {"a": digests["b"], "b": digests["b"]}


@pytest.mark.usefixtures("package")
def test_an_entry_point_names_a_source(root: Root) -> None:
    """In the group indexmill.sources."""
    config = PythonDatasetConfig(source="python", target="acme", options={"rows": [{"key": "a", "text": "b"}]})
    assert [item.key for item in open_source(config, root).items()] == ["a"]


def test_the_guide_prints_the_protocol_and_its_example_fits(site: Path, root: Root, tmp_path: Path) -> None:
    """At most 30 lines. The example lists a table, and a new row is a new version."""
    protocol = inspect.getsource(PythonSource)
    assert protocol.rstrip() in (DOCS / "sources.md").read_text(encoding="utf-8")
    assert len(protocol.splitlines()) <= 30
    install_package(site, "acme-search", {"source": read_example("acme_search/source.py")})
    config = PythonDatasetConfig(source="python", target="acme_search.source:Products", options={"path": str(tmp_path / "products.db")})
    with closing(sqlite3.connect(tmp_path / "products.db")) as connection, connection:
        connection.execute("CREATE TABLE products (sku INTEGER, title TEXT, category TEXT)")
        connection.executemany("INSERT INTO products VALUES (?, ?, ?)", [(n, f"lamp {n}", "light") for n in range(2500)])
    items = list(open_source(config, root).items())
    assert len(items) == 2500
    assert items[7] == Item("7", "light", "lamp 7")
    before = read_source_revision(config, root)
    assert read_source_revision(config, root) == before
    with closing(sqlite3.connect(tmp_path / "products.db")) as connection, connection:
        connection.execute("INSERT INTO products VALUES (9999, 'chair', 'seat')")
    assert read_source_revision(config, root) != before
