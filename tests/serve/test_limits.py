"""Limits, shared batches, allowed hosts and tokens of the service."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from indexmill.serve.http.server import resolve_token
from indexmill.storage.errors import InputError
from tests.serve.conftest import SENTENCES, RunningService, get_keys, get_problem, search


def test_searches_above_the_concurrency_limit_get_429_and_the_others_an_answer(
    running: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit of two, some of many concurrent searches get 429 with Retry-After; later ones are answered."""
    service = running.app.app.service
    monkeypatch.setattr(service, "limits", replace(service.limits, max_concurrent_searches=2))
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda n: search(running.client, texts=[f"number {n} " * 200]), range(48)))
    assert {response.status_code for response in responses} == {200, 429}
    assert all(response.headers["retry-after"] == "1" for response in responses if response.status_code == 429)
    assert search(running.client, texts=["x"]).status_code == 200


def test_a_body_above_the_limit_is_rejected_with_or_without_a_content_length(
    running: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413 from the header alone, and from counting the bytes of a chunked body."""
    monkeypatch.setattr(running.app, "limits", replace(running.app.limits, max_body_bytes=10_000))
    headers = {"Content-Type": "application/json"}
    get_problem(running.client.post("/v1/indexes/sentences/search", content=b"x" * 10_001, headers=headers), 413)
    chunks = (b"x" * 1000 for _ in range(20))
    get_problem(running.client.post("/v1/indexes/sentences/search", content=chunks, headers=headers), 413)
    deadline = time.monotonic() + 300
    while running.app.buffered_bytes:  # released after the response is sent
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_that_takes_too_long_gets_504(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request is answered."""
    service = running.app.app.service
    monkeypatch.setattr(service, "limits", replace(service.limits, timeout_seconds=0.001))
    assert get_problem(search(running.client, texts=["a long text " * 500] * 8), 504)
    monkeypatch.undo()
    assert search(running.client, texts=["x"]).status_code == 200


def test_concurrent_searches_share_encoder_calls_and_get_their_own_results(running: RunningService) -> None:
    """128 concurrent texts each find their own sentence first in fewer encoder calls; bad queries harm no other."""
    before = (
        running.app.metrics.batch_requests.labels("encode")._sum.get(),
        sum(bucket.get() for bucket in running.app.metrics.batch_requests.labels("encode")._buckets),
    )

    def search_sentence(number: int) -> list[list[str]]:
        if number % 16 == 0:
            assert search(running.client, items=[1]).status_code == 422
        return get_keys(search(running.client, texts=[SENTENCES[number % len(SENTENCES)][1]], k=1 + number % 3))

    with ThreadPoolExecutor(32) as pool:
        keys = list(pool.map(search_sentence, range(128)))
    assert [row[0][0] for row in keys] == [f"s{number % len(SENTENCES):02d}" for number in range(128)]
    requests = running.app.metrics.batch_requests.labels("encode")._sum.get() - before[0]
    calls = sum(bucket.get() for bucket in running.app.metrics.batch_requests.labels("encode")._buckets) - before[1]
    assert requests == 128
    assert calls < 100


def test_other_host_names_are_rejected(client: httpx.Client) -> None:
    """A page on another origin whose name resolves to 127.0.0.1 cannot reach the service."""
    get_problem(client.get("/v1/indexes", headers={"Host": "evil.example:8900"}), 421)
    for name in ("localhost:1", "127.0.0.1", "[::1]:8900", "LOCALHOST"):
        assert client.get("/v1/indexes", headers={"Host": name}).status_code == 200


def test_a_service_with_a_token_answers_nothing_without_it(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the page and the health checks gets 401 without the right token."""
    monkeypatch.setattr(running.app, "token", "s" * 32)
    for path in ("/v1/indexes", "/metrics", "/v1/openapi.json", "/v1/indexes/sentences/report", "/nope"):
        response = running.client.get(path)
        assert "Bearer" in response.headers["www-authenticate"]
        get_problem(response, 401)
        for wrong in ("Bearer", "Bearer " + "s" * 31, "Basic " + "s" * 32, "Bearer \xff"):
            get_problem(running.client.get(path, headers={"Authorization": wrong.encode("latin-1")}), 401)  # type: ignore[dict-item]
    assert running.client.get("/v1/indexes", headers={"Authorization": "Bearer " + "s" * 32}).status_code == 200
    assert [running.client.get(path).status_code for path in ("/healthz", "/readyz", "/", "/page/page.js")] == [200] * 4


def test_addresses_other_than_loopback_need_a_token() -> None:
    """The token must be long; the error says how to make one."""
    assert [resolve_token(host, None) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8")] == [None] * 4
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(InputError, match="INDEXMILL_TOKEN"):
            resolve_token(host, None)
        assert resolve_token(host, "s" * 32) == "s" * 32
    with pytest.raises(InputError, match="too short"):
        resolve_token("127.0.0.1", "secret")
