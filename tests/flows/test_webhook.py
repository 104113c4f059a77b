"""A build that fails is reported to a webhook, in words that give no secret away."""

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
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The bodies that a listener on 127.0.0.1 accepted; it refuses the first request."""
    bodies: list[dict[str, Any]] = []
    refusals = [503]

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = refusals.pop() if refusals else 200
            if code == 200:
                bodies.append(body)
            self.send_response(code)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Log nothing."""

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("INDEXMILL_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
    yield bodies
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_refused_build_is_reported_once_the_listener_answers(next_build: Build, digits: Path, received: list[dict[str, Any]]) -> None:
    """The first attempt meets a 503; the second brings pipeline, rule and next step."""
    with pytest.raises(PublishRefused):
        next_build(digits, "publish.gate.minimum_items=1000")
    (message,) = received
    assert (message["flow"], message["pipeline"], message["refused"]) == ("build-index", "demo-images", True)
    assert "must be at least 1,000" in message["got"]
    assert "--force" in message["next"]


def test_of_an_unexpected_error_only_its_class_is_reported(
    next_build: Build, digits: Path, received: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text may contain anything, such as a password in a URL."""

    def fail(*arguments: object) -> None:
        raise ValueError("postgresql://user:secret@host")

    monkeypatch.setattr("indexmill.flows.build_index.check_factory", fail)
    with pytest.raises(ValueError, match="secret"):
        next_build(digits)
    (message,) = received
    assert message["what"] == "ValueError"
    assert "secret" not in json.dumps(message)


@pytest.mark.slow
def test_a_published_build_is_not_reported_and_a_missing_listener_hides_no_error(
    next_build: Build, digits: Path, received: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook that nobody answers does not replace the error that it was to report."""
    assert next_build(digits, "evaluation.k=[1]")["published"]
    assert received == []
    monkeypatch.setenv("INDEXMILL_WEBHOOK", "http://127.0.0.1:9/nobody")
    with pytest.raises(InputError, match="image folder does not exist"):
        next_build(digits / "nowhere")
