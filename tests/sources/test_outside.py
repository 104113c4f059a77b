"""The hub of data sets, the hub of models and Kaggle when they are down, refuse, are another service, or have a wrong certificate.

Each is an error with exit code 2 that says where, what came, and what to do; never a traceback.
"""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session
from kagglesdk import kaggle_env

from indexmill.configs.datasets import KaggleDatasetConfig
from indexmill.storage.errors import IndexmillError
from indexmill.storage.root import Root
from indexmill.tasks.encoding import model_hub
from indexmill.tasks.retry import RetryPolicy
from indexmill.tasks.sources.kaggle import KaggleSource
from tests.sources.faulty_server import Answer, FaultyServer
from tests.sources.hub_datasets import make_text_source, point_libraries_to

FAST_RETRY = RetryPolicy(attempts=2, first_wait_s=0.01, max_wait_s=0.02, timeout_s=2)
Ask = Callable[[str], None]


class FixedServer(FaultyServer):
    """Answers everything alike."""

    fixed = Answer()

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        return self.fixed


@pytest.fixture
def outside() -> Iterator[FixedServer]:
    server = FixedServer()
    yield server
    server.close()
    close_session()


@pytest.fixture(params=["data sets", "models", "kaggle"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Root) -> Ask:
    """Ask the provider at an address for the first thing that a build asks it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def ask_hub(url: str) -> None:
        point_libraries_to(url, monkeypatch)
        make_text_source(root).compute_revision()

    def ask_model_hub(url: str) -> None:
        point_libraries_to(url, monkeypatch)
        monkeypatch.setattr(model_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(model_hub, "HUB_RETRY", FAST_RETRY)
        model_hub.fetch_folder("ours/model", "tests", lambda names: names, key="encoder.model")

    def ask_kaggle(url: str) -> None:
        monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, url)
        monkeypatch.setattr("kagglehub.clients.get_user_agent", lambda: "tests")
        KaggleSource(KaggleDatasetConfig(source="kaggle", handle="ours/leaves"), root, FAST_RETRY).compute_revision()

    return {"data sets": ask_hub, "models": ask_model_hub, "kaggle": ask_kaggle}[request.param]


def expect_error(ask: Ask, url: str) -> IndexmillError:
    with pytest.raises(IndexmillError) as caught:
        ask(url)
    error = caught.value
    assert error.exit_code == 2
    assert error.where.startswith(("dataset.", "encoder."))
    assert error.got
    assert error.next_step
    assert len(str(error)) < 2000
    return error


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(401, b"Invalid token"), ("log in",)),
        (Answer(403, b"no"), ("log in", "terms")),
        (Answer(404, b"no"), ("correct", "log in")),
        (Answer(418, b"no"), ("page", "correct")),
        (Answer(500, b"no"), ("run the build again",)),
        (Answer(503, b"no", {"Retry-After": "0"}), ("run the build again",)),
        (Answer(200, b"<html>Please sign in to the guest network</html>"), ("address", "network")),
        (Answer(200, b""), ("address", "network")),
        (Answer(200, b"[]", {"Content-Type": "application/json"}), ("address", "network")),
        (Answer(200, b"{}", {"Content-Type": "application/json"}), ("address", "network", "do not use")),
        (Answer(302, headers={"Location": "/again"}), ("address", "network")),
    ],
    ids=lambda value: f"{value.status} {value.body[:9]!r}" if isinstance(value, Answer) else "",
)
def test_an_answer_that_is_none_is_an_error(ask: Ask, outside: FixedServer, answer: Answer, words: tuple[str, ...]) -> None:
    outside.fixed = answer
    error = expect_error(ask, outside.url)
    assert any(word in error.next_step for word in words), str(error)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://no-such-host.invalid", "not-a-url", "ftp://127.0.0.1", "http://127.0.0.1:99999", "https://[::1"]
)
def test_a_wrong_address_is_an_error(ask: Ask, outside: FixedServer, url: str) -> None:
    expect_error(ask, url)


def test_a_server_without_tls_is_an_error(ask: Ask, outside: FixedServer) -> None:
    expect_error(ask, outside.url.replace("http://", "https://"))


def test_a_certificate_that_nobody_signed_is_an_error(ask: Ask, outside: FixedServer, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *options, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    outside._server.socket = context.wrap_socket(outside._server.socket, server_side=True)
    error = expect_error(ask, outside.url.replace("http://", "https://"))
    assert "certificate" in str(error).lower()
