"""A build that ends badly is told to a listener, in words that give nothing away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from indexmill.storage.errors import InputError, PublishRefused
from tests.conftest import Build


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a listener on 127.0.0.1 was sent; it is out of order at its first request."""
    bodies: list[dict[str, Any]] = []
    refused = [503]

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = refused.pop() if refused else 200
            if code == 200:
                bodies.append(body)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("INDEXMILL_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
    yield bodies
    server.shutdown()
    server.server_close()


def test_a_refusal_is_told_once_the_listener_answers(quick_build: Build, pictures: Path, heard: list[dict[str, Any]]) -> None:
    """The first try meets a 503; the second brings pipeline, rule and next step."""
    with pytest.raises(PublishRefused):
        quick_build(pictures, "publish.gate.minimum_items=1000")
    (told,) = heard
    assert (told["flow"], told["pipeline"], told["refused"]) == ("build-index", "demo-images", True)
    assert "must be at least 1,000" in told["got"]
    assert "--force" in told["next"]


def test_only_the_kind_of_a_foreign_error_is_told(
    quick_build: Build, pictures: Path, heard: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text may hold anything, a password in a URL say."""

    def broken(*arguments: object) -> None:
        raise ValueError("postgresql://user:secret@host")

    monkeypatch.setattr("indexmill.flows.build_index.check_factory", broken)
    with pytest.raises(ValueError, match="secret"):
        quick_build(pictures)
    (told,) = heard
    assert told["what"] == "ValueError"
    assert "secret" not in json.dumps(told)


def test_a_good_build_and_a_missing_listener_say_nothing(
    quick_build: Build, pictures: Path, heard: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A published build is no trouble; and a webhook that nobody answers does not hide the error that it was to tell."""
    quick_build(pictures)
    assert heard == []
    monkeypatch.setenv("INDEXMILL_WEBHOOK", "http://127.0.0.1:9/nobody")
    with pytest.raises(InputError, match="image folder does not exist"):
        quick_build(pictures / "nowhere")
