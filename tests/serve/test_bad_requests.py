"""Requests as nobody means them: never a fault of the service, never a wait, never a word about where anything lies.

INDEXMILL_REQUESTS says how many in all; a few hundred without it.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.checks import CHECKS, load_all_checks

from tests.serve.conftest import RunningService, assert_discloses_nothing

REQUESTS = int(os.environ.get("INDEXMILL_REQUESTS", "300"))
OPERATIONS = 20  # of the document, sound and unsound
SLOWEST = 40  # seconds; the service gives up after 30
CALM = settings(
    max_examples=max(5, REQUESTS // (2 * OPERATIONS)),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
WILD = settings(max_examples=REQUESTS // 2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
NAMES = ("sentences", "demo-images")


def assert_answered_well(status: int, kind: str, text: str, seconds: float) -> None:
    """An answer or a problem; 503 and 504 only with a reason, 500 never."""
    assert status not in (500, 501, 502), text
    assert seconds < SLOWEST
    if status >= 400:
        assert kind == "application/problem+json", (status, kind, text)
        assert json.loads(text)["status"] == status
        assert_discloses_nothing(text)


@pytest.fixture(scope="module")
def schema(running: RunningService) -> Any:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{running.port}/v1/openapi.json")


load_all_checks()
CHECKED = CHECKS.get_by_names(["not_a_server_error", "content_type_conformance", "response_schema_conformance"])
PATHS = [
    ("POST", "/v1/indexes/{name}/search"), ("GET", "/v1/indexes"), ("GET", "/v1/indexes/{name}"), ("GET", "/v1/indexes/{name}/labels"),
    ("GET", "/v1/indexes/{name}/report"), ("GET", "/v1/indexes/{name}/items/{item}"), ("GET", "/v1/indexes/{name}/items/{item}/thumbnail"),
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"),
]  # fmt: skip


def test_every_path_is_in_the_document_and_the_reverse(schema: Any) -> None:
    """So none is left out of what follows."""
    assert sorted((found.ok().method.upper(), found.ok().path) for found in schema.get_all_operations()) == sorted(PATHS)


MODES = list(schemathesis.GenerationMode)
# In a request without parameters nothing can be wrong.
ASKED = [(*one, mode) for one in PATHS for mode in MODES if "{" in one[1] or mode is schemathesis.GenerationMode.POSITIVE]


@pytest.mark.parametrize(("method", "path", "mode"), ASKED)
def test_what_the_document_allows_and_forbids(schema: Any, method: str, path: str, mode: Any) -> None:
    """Generated from the OpenAPI document, sound and unsound: the answer's type and body are as it says."""

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @CALM
    def ask(case: Any) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE and "name" in case.path_parameters:
            case.path_parameters["name"] = NAMES[len(case.path_parameters["name"]) % 2]  # indexes that are there
        start = time.monotonic()
        response = case.call()
        kind = response.headers["content-type"]
        assert_answered_well(response.status_code, kind if isinstance(kind, str) else kind[0], response.text, time.monotonic() - start)
        case.validate_response(response, checks=CHECKED)

    ask()


def picture(size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(file, kind)
    return file.getvalue()


SOUND: list[tuple[str, bytes]] = [
    ("application/json", json.dumps({"texts": ["a boat"], "k": 3, "label": "sea", "where": {"key": ["s00"]}, "fields": ["key"]}).encode()),
    ("application/json", json.dumps({"vectors": np.eye(2, 384).tolist(), "rerank": False}).encode()),
    ("application/json", json.dumps({"images": [base64.b64encode(picture((9, 9), "PNG")).decode()]}).encode()),
    ("application/json", json.dumps({"items": ["12", 13]}).encode()),
    ("application/octet-stream", np.eye(2, 384, dtype="<f4").tobytes()),
    ("image/png", picture((40, 30), "PNG")), ("image/jpeg", picture((40, 30), "JPEG")), ("image/gif", picture((40, 30), "GIF")),
    ("image/webp", picture((40, 30), "WEBP")), ("image/tiff", picture((40, 30), "TIFF")), ("image/bmp", picture((40, 30), "BMP")),
    ("multipart/form-data; boundary=edge",
     b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + picture((9, 9), "PNG")
     + b'\r\n--edge\r\nContent-Disposition: form-data; name="k"\r\n\r\n3\r\n--edge--\r\n'),
]  # fmt: skip
ODD = [
    b"",
    b"\0",
    b"NaN",
    b"1e999",
    b"-1",
    b"99999999999999999999",
    b'"',
    b"{",
    b"]",
    b"\xff\xff\xff\xff",
    b"\r\n",
    b"null",
    b"../../etc/passwd",
    b"%00",
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A sound body with some of its bytes cut out, put in, doubled or exchanged, now and then under another type."""
    kind, body = draw(st.sampled_from(SOUND))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 40)))
        put = draw(st.one_of(st.sampled_from(ODD), st.binary(max_size=8), st.just(body[start:end] * 2)))
        body = body[:start] + put + body[end:]
    return draw(st.sampled_from([kind, kind, kind, *(other for other, _ in SOUND)])), body


@given(
    sent=mutated(), name=st.sampled_from([*NAMES, "..", "%2e%2e", "no-such"]),
    query=st.dictionaries(st.sampled_from(["k", "label", "rerank", "fields", "x"]), st.text(max_size=8), max_size=2),
)  # fmt: skip
@WILD
def test_mutated_bodies_and_options(running: RunningService, sent: tuple[str, bytes], name: str, query: dict[str, str]) -> None:
    """Broken images, torn JSON and forms, not-numbers, huge numbers, wrong types: an answer or a problem."""
    kind, body = sent
    query = {key: value.encode("utf-8", "replace").decode() for key, value in query.items()}
    start = time.monotonic()
    try:
        response = running.client.post(f"/v1/indexes/{name}/search", content=body, params=query, headers={"Content-Type": kind})
    except httpx.InvalidURL:
        return
    assert_answered_well(response.status_code, response.headers["content-type"], response.text, time.monotonic() - start)


def test_it_answers_as_ever_afterwards(running: RunningService) -> None:
    """Nothing that was sent stays in it: no body is held, no search runs, and a question is answered."""
    assert running.app.buffered_bytes == 0
    assert running.app.metrics.searches_in_progress._value.get() == 0
    assert running.client.post("/v1/indexes/sentences/search", json={"texts": ["a boat"]}).status_code == 200
