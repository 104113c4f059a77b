"""What the service takes on at once and of whom: limits, shared calls, hosts and tokens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest

from indexmill.serve.http.server import resolve_token
from indexmill.storage.errors import InputError
from tests.serve.conftest import SENTENCES, RunningService, get_keys, search, get_problem


def test_searches_past_the_limit_are_sent_away_at_once_and_the_others_answered(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two at once, of many together some get 429 with Retry-After and the rest their answer; afterwards all is well."""
    service = running.app.app.service
    monkeypatch.setattr(service, "limits", replace(service.limits, max_concurrent_searches=2))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: search(running.client, texts=[f"number {n} " * 200]), range(48)))
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 429)
    assert search(running.client, texts=["x"]).status_code == 200


def test_a_body_past_the_limit_is_refused_whether_it_says_its_length_or_not(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """413 from the header alone, and from counting a body that comes in pieces."""
    monkeypatch.setattr(running.app, "limits", replace(running.app.limits, max_body_bytes=10_000))
    headers = {"Content-Type": "application/json"}
    get_problem(running.client.post("/v1/indexes/sentences/search", content=b"x" * 10_001, headers=headers), 413)
    pieces = (b"x" * 1000 for _ in range(20))
    get_problem(running.client.post("/v1/indexes/sentences/search", content=pieces, headers=headers), 413)
    assert running.app.buffered_bytes == 0


def test_a_request_that_takes_too_long_is_given_up(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """504 with Retry-After, and the next one is answered."""
    service = running.app.app.service
    monkeypatch.setattr(service, "limits", replace(service.limits, timeout_seconds=0.001))
    assert get_problem(search(running.client, texts=["a long text " * 500] * 8), 504)
    monkeypatch.undo()
    assert search(running.client, texts=["x"]).status_code == 200


def test_questions_that_come_together_share_calls_and_get_their_own_answers(running: RunningService) -> None:
    """Of 64 clients' texts each finds its own sentence first; fewer calls of the encoder than requests; one bad question harms no other."""
    before = (
        running.app.metrics.batch_requests.labels("encode")._sum.get(),
        sum(bucket.get() for bucket in running.app.metrics.batch_requests.labels("encode")._buckets),
    )

    def ask(number: int) -> list[list[str]]:
        if number % 16 == 0:
            assert search(running.client, items=[1]).status_code == 422
        return get_keys(search(running.client, texts=[SENTENCES[number % len(SENTENCES)][1]], k=1 + number % 3))

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(128)))
    assert [row[0][0] for row in answers] == [f"s{number % len(SENTENCES):02d}" for number in range(128)]
    asked = running.app.metrics.batch_requests.labels("encode")._sum.get() - before[0]
    calls = sum(bucket.get() for bucket in running.app.metrics.batch_requests.labels("encode")._buckets) - before[1]
    assert asked == 128
    assert calls < 100


def test_another_name_for_this_machine_is_refused(client: httpx.Client) -> None:
    """A page elsewhere whose name leads to 127.0.0.1 reaches nothing."""
    get_problem(client.get("/v1/indexes", headers={"Host": "evil.example:8900"}), 421)
    for name in ("localhost:1", "127.0.0.1", "[::1]:8900", "LOCALHOST"):
        assert client.get("/v1/indexes", headers={"Host": name}).status_code == 200


def test_with_a_token_nothing_is_told_without_it(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 for all but the page and the service's health; the right token opens all of it, a wrong one nothing."""
    monkeypatch.setattr(running.app, "token", "s" * 32)
    for path in ("/v1/indexes", "/metrics", "/v1/openapi.json", "/v1/indexes/sentences/report", "/nope"):
        answer = running.client.get(path)
        assert "Bearer" in answer.headers["www-authenticate"]
        get_problem(answer, 401)
        for wrong in ("Bearer", "Bearer " + "s" * 31, "Basic " + "s" * 32, "Bearer \xff"):
            get_problem(running.client.get(path, headers={"Authorization": wrong.encode("latin-1")}), 401)  # type: ignore[dict-item]
    assert running.client.get("/v1/indexes", headers={"Authorization": "Bearer " + "s" * 32}).status_code == 200
    assert [running.client.get(path).status_code for path in ("/healthz", "/readyz", "/", "/page/page.js")] == [200] * 4


def test_other_addresses_than_this_machines_need_a_token() -> None:
    """And a token is long; the message says how to get one."""
    assert [resolve_token(host, None) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8")] == [None] * 4
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(InputError, match="INDEXMILL_TOKEN"):
            resolve_token(host, None)
        assert resolve_token(host, "s" * 32) == "s" * 32
    with pytest.raises(InputError, match="too short"):
        resolve_token("127.0.0.1", "secret")
