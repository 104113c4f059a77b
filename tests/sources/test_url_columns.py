"""Tables behind URLs, and image columns of URLs: what is downloaded when, and what becomes of each failure."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.configs.datasets import TableDatasetConfig
from indexmill.configs.models import ValidateConfig
from indexmill.storage.object_client import ObjectClient
from indexmill.storage.records import Dataset
from indexmill.storage.root import Root
from indexmill.tasks.ingest import describe_stale_listing, ingest
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources import image_downloads, open_source
from indexmill.tasks.sources.revisions import read_source_revision
from indexmill.tasks.validate import validate
from tests.sources.web_server import WebServer, serve
from tests.stage_inputs import read_rows


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = RetryPolicy(attempts=2, first_wait_s=0.01, timeout_s=1)
    monkeypatch.setattr(image_downloads.ImageDownloads.__init__, "__kwdefaults__", {"trusted_url": None, "retry_policy": quick})


@pytest.fixture
def web(digits: Path) -> Iterator[WebServer]:
    """A server with twelve images, /0.png to /11.png."""
    with serve() as server:
        for number, path in enumerate(sorted((digits / "5").iterdir())):
            server.files[f"/{number}.png"] = path.read_bytes()
        yield server


def write_table(path: Path, rows: list[tuple[str, ...]], header: str = "key,image,label,text") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def make_rows(base: str, count: int = 12) -> list[tuple[str, ...]]:
    return [(f"k{number}", f"{base}{number}.png", "five", f"text {number}") for number in range(count)]


def make_config(path: str | Path, **downloads: Any) -> TableDatasetConfig:
    columns = {"key_column": "key", "image_column": "image", "label_column": "label", "text_column": "text"}
    return TableDatasetConfig(source="csv", path=str(path), downloads={"allow_private": True, **downloads}, **columns)


def run_ingest(root: Root, config: TableDatasetConfig) -> Dataset:
    return ingest.fn(root, "some", config, read_source_revision(config, root))


def get_digests(root: Root, dataset: Dataset) -> dict[str, str]:
    return {row["key"]: row["content_digest"] for row in read_rows(root, dataset.table)}


def test_images_are_downloaded_once_and_their_urls_are_not_recorded(root: Root, web: WebServer, tmp_path: Path) -> None:
    """The next night asks for nothing and has the same revision and digest; a signed URL is in no file of the root."""
    rows = make_rows(web.url + "/")
    web.files["/0.png?signature=secret"] = web.files["/0.png"]
    rows[0] = ("k0", f"{web.url}/0.png?signature=secret", "five", "text 0")
    config = make_config(write_table(tmp_path / "t.csv", rows))
    first = run_ingest(root, config)
    assert (first.items, first.unreadable_files, len(web.requests)) == (12, 0, 12)
    web.requests.clear()
    assert run_ingest(root, config).digest == first.digest
    assert read_source_revision(config, root) == read_source_revision(config, root) == first.revision
    assert web.requests == []
    assert not [path for path in root.path.rglob("*") if path.is_file() and b"signature=secret" in path.read_bytes()]


def test_old_copies_are_asked_for_conditionally(root: Root, web: WebServer, tmp_path: Path) -> None:
    """With recheck_days 0 every night asks with the ETag; only the changed image is sent, and the revision changes with it."""
    config = make_config(write_table(tmp_path / "t.csv", make_rows(web.url + "/")), recheck_days=0)
    first = run_ingest(root, config)
    revision = read_source_revision(config, root)
    assert revision == first.revision
    assert set(web.sent.values()) == {1}
    web.files["/3.png"] = web.files["/4.png"]
    web.sent.clear()
    second = run_ingest(root, config)
    digests = get_digests(root, second)
    assert web.sent == {"/3.png": 1}
    assert digests["k3"] == digests["k4"] == get_digests(root, first)["k4"]
    assert second.revision not in (revision, read_source_revision(config, root) + "x")
    assert read_source_revision(config, root) == second.revision


@pytest.mark.slow
def test_a_server_that_is_down_keeps_copies_and_one_that_lost_a_file_does_not(root: Root, web: WebServer, tmp_path: Path) -> None:
    """503 on the second night changes nothing; 404 makes a reject."""
    config = make_config(write_table(tmp_path / "t.csv", make_rows(web.url + "/")), recheck_days=0)
    first = run_ingest(root, config)
    web.broken["/1.png"] = lambda: (503, {}, b"")
    assert run_ingest(root, config).digest == first.digest
    del web.broken["/1.png"], web.files["/1.png"]
    second = run_ingest(root, config)
    assert second.unreadable_files == 1
    assert get_digests(root, second) == get_digests(root, first) | {"k1": None}


def test_every_failure_is_a_reject_with_its_reason_and_is_tried_again(root: Root, web: WebServer, tmp_path: Path) -> None:
    """The next build asks only for what is missing, and has it when the server has it again."""
    rows = make_rows(web.url + "/")
    rows[7] = ("k7", "pictures/7.png", "five", "a path on disk")
    rows[8] = ("k8", "", "five", "no image")
    rows[9] = ("k9", "http://[broken/9.png", "five", "no host")
    rows[10] = ("k10", "s3://a bucket/../10.png", "five", "no path")
    config = make_config(write_table(tmp_path / "t.csv", rows), max_bytes=5000)
    web.broken |= {
        "/0.png": lambda: (404, {}, b""),
        "/1.png": lambda: (503, {}, b""),
        "/2.png": lambda: (200, {"Content-Length": "3000", "Connection": "close"}, b"cut"),
        "/3.png": lambda: (403, {}, b""),
        "/4.png": lambda: (200, {}, b"x" * 5001),
    }
    dataset = run_ingest(root, config)
    validated = validate.fn(root, dataset, ValidateConfig(max_reject_fraction=0.8))
    reasons = {row["key"]: row["reason"] for row in read_rows(root, validated.rejects)}
    assert reasons == {
        "k0": "not_found",
        "k1": "unreachable",
        "k2": "unreachable",
        "k3": "access_denied",
        "k4": "file_too_large",
        "k7": "malformed_row",
        "k8": "missing_path",
        "k9": "not_found",
        "k10": "not_found",
    }
    assert describe_stale_listing(dataset) == "8 files could not be read"  # a row without an image counts as one, as on disk
    web.broken.clear()
    web.sent.clear()
    again = run_ingest(root, config)
    assert set(web.sent) == {"/0.png", "/1.png", "/2.png", "/3.png", "/4.png"}
    assert sum(digest is not None for digest in get_digests(root, again).values()) == 8


def test_private_addresses_in_rows_are_refused(root: Root, web: WebServer, tmp_path: Path) -> None:
    """Unless the config allows them, no request is made."""
    rows = [*make_rows(web.url + "/", 2), ("k3", "http://169.254.169.254/latest/meta-data", "five", "")]
    config = make_config(write_table(tmp_path / "t.csv", rows), allow_private=False)
    dataset = run_ingest(root, config)
    assert {row["fault_reason"] for row in read_rows(root, dataset.table)} == {"address_refused"}
    assert web.requests == []


@pytest.mark.slow
def test_a_host_gets_so_many_requests_at_once(root: Root, web: WebServer, tmp_path: Path) -> None:
    """All twelve images wait for the server, three at a time."""
    gate = threading.Barrier(3)  # the requests answer when three of them have come

    def answer(path: str) -> Any:
        gate.wait(20)
        return 200, {}, web.files[path]

    web.broken |= {path: (lambda path=path: answer(path)) for path in list(web.files)}
    config = make_config(write_table(tmp_path / "t.csv", make_rows(web.url + "/")), per_host=3)
    with pytest.MonkeyPatch.context() as patch:
        patient = RetryPolicy(attempts=1, timeout_s=30)
        patch.setattr(image_downloads.ImageDownloads.__init__, "__kwdefaults__", {"trusted_url": None, "retry_policy": patient})
        assert run_ingest(root, config).unreadable_files == 0
    assert web.most_at_once == 3


def test_a_table_on_a_web_server_names_images_beside_it(root: Root, web: WebServer, tmp_path: Path) -> None:
    """Its own host may be private; a path that leads out of its folder is rejected; an unchanged table is not sent again."""
    rows = [*make_rows("", 3), ("out", "../../x.png", "five", ""), ("sub", "a b/ä.png", "five", "")]
    web.files["/data/t.csv"] = write_table(tmp_path / "t.csv", rows).read_bytes()
    web.files |= {f"/data/{number}.png": web.files[f"/{number}.png"] for number in range(3)}
    web.files["/data/a%20b/%C3%A4.png"] = web.files["/9.png"]
    config = make_config(f"{web.url}/data/t.csv", allow_private=False)
    dataset = run_ingest(root, config)
    assert {key for key, digest in get_digests(root, dataset).items() if digest} == {"k0", "k1", "k2", "sub"}
    assert web.sent["/data/t.csv"] == 1
    run_ingest(root, config)
    assert web.sent["/data/t.csv"] == 1
    web.files["/data/t.csv"] = write_table(tmp_path / "t.csv", make_rows("", 2)).read_bytes()
    assert run_ingest(root, config).items == 2


def test_a_table_without_a_version_is_read_in_every_build(root: Root, web: WebServer, tmp_path: Path) -> None:
    """A server that gives neither ETag nor time: a table of the same size with another text is another revision."""
    content = [b"key,text\n1,one\n"]
    web.broken["/t.csv"] = lambda: (200, {}, content[0])
    config = TableDatasetConfig(source="csv", path=f"{web.url}/t.csv", key_column="key", text_column="text")
    revision = read_source_revision(config, root)
    assert read_source_revision(config, root) == revision
    content[0] = b"key,text\n1,two\n"
    assert read_source_revision(config, root) != revision
    assert [item.text for item in open_source(config, root).items()] == ["two"]


@pytest.mark.slow
def test_tables_and_images_in_a_bucket(root: Root, web: WebServer, bucket_url: str) -> None:
    """A pattern reads all tables below it in order; paths are relative to each table, and s3:// URLs are read too."""
    client = ObjectClient(bucket_url)
    for part in ("a", "b"):
        for number in range(2):
            client.put(f"data/{part}/images/{part}{number}.png", web.files[f"/{number}.png"])
        names = [f"images/{part}0.png", f"{bucket_url}/data/{part}/images/{part}1.png"]
        table = pa.table({"key": [f"{part}0", f"{part}1"], "image": names})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        client.put(f"data/{part}/part.parquet", sink.getvalue().to_pybytes())
    config = TableDatasetConfig(
        source="parquet", path=f"{bucket_url}/data/*/part.parquet", image_column="image", downloads={"recheck_days": 0}
    )
    dataset = run_ingest(root, config)
    keys = {f"{part}/part.parquet:{number}" for part in "ab" for number in range(2)}
    assert (set(get_digests(root, dataset)), dataset.unreadable_files) == (keys, 0)
    assert run_ingest(root, config).digest == dataset.digest
    client.put("data/b/images/b1.png", web.files["/9.png"])
    assert get_digests(root, run_ingest(root, config)).items() - get_digests(root, dataset).items() == {
        ("b/part.parquet:1", get_digests(root, run_ingest(root, config))["b/part.parquet:1"])
    }
