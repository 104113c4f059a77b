"""Malformed and generated requests never crash the service, never hang, and never disclose a path.

INDEXMILL_REQUESTS sets the number of requests; the default is a few hundred.
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
OPERATIONS = 20  # in the OpenAPI document, counting valid and invalid requests apart
MAX_SECONDS = 300  # the service itself times out after 30
SCHEMA_SETTINGS = settings(
    max_examples=max(5, REQUESTS // (2 * OPERATIONS)),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
MUTATION_SETTINGS = settings(
    max_examples=REQUESTS // 2, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
NAMES = ("sentences", "demo-images")


def assert_valid_response(status: int, kind: str, text: str, seconds: float) -> None:
    """Check that a response is an answer or a problem, and never a server error."""
    assert status not in (500, 501, 502), text
    assert seconds < MAX_SECONDS
    if status >= 400:
        assert kind == "application/problem+json", (status, kind, text)
        assert json.loads(text)["status"] == status
        assert_discloses_nothing(text)


@pytest.fixture(scope="module")
def schema(running: RunningService) -> Any:
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{running.port}/v1/openapi.json")


load_all_checks()
SCHEMA_CHECKS = CHECKS.get_by_names(["not_a_server_error", "content_type_conformance", "response_schema_conformance"])
PATHS = [
    ("POST", "/v1/indexes/{name}/search"),
    ("GET", "/v1/indexes"),
    ("GET", "/v1/indexes/{name}"),
    ("GET", "/v1/indexes/{name}/labels"),
    ("GET", "/v1/indexes/{name}/report"),
    ("GET", "/v1/indexes/{name}/items/{item}"),
    ("GET", "/v1/indexes/{name}/items/{item}/thumbnail"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


def test_the_openapi_document_lists_every_path(schema: Any) -> None:
    """The tests below cover all of them."""
    assert sorted((operation.ok().method.upper(), operation.ok().path) for operation in schema.get_all_operations()) == sorted(PATHS)


MODES = list(schemathesis.GenerationMode)
# A request without parameters cannot be invalid.
CASES = [(method, path, mode) for method, path in PATHS for mode in MODES if "{" in path or mode is schemathesis.GenerationMode.POSITIVE]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_responses_match_the_openapi_document(schema: Any, method: str, path: str, mode: Any) -> None:
    """Valid and invalid requests generated from the document get responses of the documented type and schema."""

    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    @SCHEMA_SETTINGS
    def send(case: Any) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE and "name" in case.path_parameters:
            case.path_parameters["name"] = NAMES[len(case.path_parameters["name"]) % 2]  # an existing index
        start = time.monotonic()
        response = case.call()
        kind = response.headers["content-type"]
        assert_valid_response(response.status_code, kind if isinstance(kind, str) else kind[0], response.text, time.monotonic() - start)
        case.validate_response(response, checks=SCHEMA_CHECKS)

    send()


def make_image(size: tuple[int, int], format_name: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(buffer, format_name)
    return buffer.getvalue()


VALID_BODIES: list[tuple[str, bytes]] = [
    ("application/json", json.dumps({"texts": ["a boat"], "k": 3, "label": "sea", "where": {"key": ["s00"]}, "fields": ["key"]}).encode()),
    ("application/json", json.dumps({"vectors": np.eye(2, 384).tolist(), "rerank": False}).encode()),
    ("application/json", json.dumps({"images": [base64.b64encode(make_image((9, 9), "PNG")).decode()]}).encode()),
    ("application/json", json.dumps({"items": ["12", 13]}).encode()),
    ("application/octet-stream", np.eye(2, 384, dtype="<f4").tobytes()),
    ("image/png", make_image((40, 30), "PNG")),
    ("image/jpeg", make_image((40, 30), "JPEG")),
    ("image/gif", make_image((40, 30), "GIF")),
    ("image/webp", make_image((40, 30), "WEBP")),
    ("image/tiff", make_image((40, 30), "TIFF")),
    ("image/bmp", make_image((40, 30), "BMP")),
    (
        "multipart/form-data; boundary=edge",
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + make_image((9, 9), "PNG")
        + b'\r\n--edge\r\nContent-Disposition: form-data; name="k"\r\n\r\n3\r\n--edge--\r\n',
    ),
]
ODD_BYTES = [
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
def mutated_bodies(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid body with bytes deleted, inserted, doubled or replaced, sometimes with another content type."""
    kind, body = draw(st.sampled_from(VALID_BODIES))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 40)))
        inserted = draw(st.one_of(st.sampled_from(ODD_BYTES), st.binary(max_size=8), st.just(body[start:end] * 2)))
        body = body[:start] + inserted + body[end:]
    return draw(st.sampled_from([kind, kind, kind, *(other for other, _ in VALID_BODIES)])), body


@pytest.mark.slow
@given(
    sent=mutated_bodies(),
    name=st.sampled_from([*NAMES, "..", "%2e%2e", "no-such"]),
    query=st.dictionaries(st.sampled_from(["k", "label", "rerank", "fields", "x"]), st.text(max_size=8), max_size=2),
)
@MUTATION_SETTINGS
def test_mutated_bodies_and_options(running: RunningService, sent: tuple[str, bytes], name: str, query: dict[str, str]) -> None:
    """Broken images, truncated JSON and forms, NaN, huge numbers and wrong types get an answer or a problem."""
    kind, body = sent
    query = {key: value.encode("utf-8", "replace").decode() for key, value in query.items()}
    start = time.monotonic()
    try:
        response = running.client.post(f"/v1/indexes/{name}/search", content=body, params=query, headers={"Content-Type": kind})
    except httpx.InvalidURL:
        return
    assert_valid_response(response.status_code, response.headers["content-type"], response.text, time.monotonic() - start)


def test_the_service_is_idle_and_answers_after_bad_requests(running: RunningService) -> None:
    """No body is left in memory, no search is running, and the next query is answered."""
    assert running.app.buffered_bytes == 0
    assert running.app.metrics.searches_in_progress._value.get() == 0
    assert running.client.post("/v1/indexes/sentences/search", json={"texts": ["a boat"]}).status_code == 200
