"""A Prefect server that is down, refuses, is another service or has another version is an error that says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import prefect
import pytest

from indexmill.flows.prefect_server import check_server, explain_server_failures
from indexmill.storage.errors import IndexmillError, SourceUnreachable

Answers = list[dict[str, tuple[int, str]]]


@pytest.fixture
def served() -> Iterator[tuple[str, Answers]]:
    """A server's URL, and its answers by path; of several sets of answers the first is used up first."""
    answers: Answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[0].get(self.path, (404, "nothing here"))
            if len(answers) > 1:
                answers.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api", answers
        server.shutdown()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexmill.flows.prefect_server.WAIT_S", 0)


GOOD = {"/api/health": (200, "true"), "/api/admin/version": (200, json.dumps(prefect.__version__))}


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ({}, "no Prefect API"),
        ({"/api/health": (200, "<html>")}, "no Prefect API"),
        ({"/api/health": (401, "")}, "refuses the credentials"),
        (GOOD | {"/api/admin/version": (200, '"2.20.1"')}, "another major version"),
    ],
)
def test_a_server_that_cannot_be_used_is_an_error(served: tuple[str, Answers], answers: dict[str, tuple[int, str]], what: str) -> None:
    url, given = served
    given.append(answers)
    with pytest.raises(IndexmillError, match=what) as caught:
        check_server(url)
    assert caught.value.exit_code == 2
    assert url in caught.value.where
    assert caught.value.next_step


def test_a_server_that_restarts_is_asked_again(served: tuple[str, Answers]) -> None:
    url, answers = served
    answers += [{"/api/health": (503, "")}, {"/api/health": (503, "")}, GOOD]
    check_server(url)


def test_a_wrong_address_is_an_error_without_its_password() -> None:
    with pytest.raises(IndexmillError, match="is not a URL"):
        check_server("not-a-url")
    with pytest.raises(SourceUnreachable, match="does not answer") as caught:
        check_server("http://me:secret@127.0.0.1:9/api")
    assert "secret" not in str(caught.value)


def test_failures_of_the_server_during_a_run_are_explained() -> None:
    """Other errors pass unchanged."""
    with pytest.raises(SourceUnreachable, match="during the run"), explain_server_failures("http://x/api"):
        raise RuntimeError("Failed to reach API at http://x/api")
    with pytest.raises(RuntimeError, match="something else"), explain_server_failures(""):
        raise RuntimeError("something else")


@pytest.mark.slow
def test_the_command_line_ends_with_2(tmp_path: object) -> None:
    command = [sys.executable, "-m", "indexmill", "build", "demo-text", "--root", f"{tmp_path}/root"]
    environment = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "Prefect's server does not answer" in done.stderr
    assert "bug" not in done.stderr
