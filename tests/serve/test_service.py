"""The REST API, called over HTTP."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from indexmill.serve import open_index
from tests.serve.conftest import SENTENCES, RunningService, get_keys, get_problem, search

NAMES = ["sentences", "demo-images"]


def test_the_api_returns_what_open_index_returns(client: httpx.Client, published: Path) -> None:
    """Keys, scores, ids and snapshot are equal for texts, items and vectors, with and without a filter."""
    index = open_index(published, "sentences")
    ids = [result.item_id for result in index.search(texts=["x"], k=4).results[0]]
    vectors = np.random.default_rng(3).standard_normal((3, 384)).astype(np.float32)
    for query in (
        {"texts": ["a boat", "bread"]},
        {"items": ids},
        {"vectors": vectors.tolist()},
        {"texts": ["a boat"], "label": "court"},
        {"texts": ["a boat"], "where": {"key": ["s00", "s03"]}, "rerank": False},
    ):
        answer = search(client, k=5, **query).json()
        expected = index.search(k=5, **query)  # type: ignore[arg-type]
        got = [[(int(item["id"]), item["rank"], item["key"], item["label"], item["text"]) for item in row] for row in answer["results"]]
        assert got == [[(result.item_id, result.rank, result.key, result.label, result.text) for result in row] for row in expected.results]
        assert np.allclose(
            [item["score"] for row in answer["results"] for item in row],
            [result.score for row in expected.results for result in row],
            atol=1e-5,
        )
        assert answer["snapshot_id"] == index.manifest.snapshot_id


def test_raw_vectors_get_the_results_of_vectors_in_json(client: httpx.Client) -> None:
    """The same ids and scores; with an empty list of fields nothing else."""
    vectors = np.random.default_rng(3).standard_normal((20, 384)).astype("<f4")
    full = search(client, vectors=vectors.tolist(), k=3).json()["results"]
    raw = client.post(
        "/v1/indexes/sentences/search?k=3&fields=", content=vectors.tobytes(), headers={"Content-Type": "application/octet-stream"}
    )
    assert raw.json()["results"] == [[{"id": item["id"], "score": item["score"]} for item in row] for row in full]


def test_raw_results_equal_those_in_json(client: httpx.Client) -> None:
    """Ids are int64 and scores float32, in the shape given by the header; k is cut to the number of items."""
    vectors = np.random.default_rng(3).standard_normal((20, 384)).astype("<f4")
    headers = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
    for k in (3, 100):
        answer = client.post(f"/v1/indexes/sentences/search?k={k}", content=vectors.tobytes(), headers=headers)
        n, columns = map(int, answer.headers["indexmill-shape"].split(","))
        assert (n, columns) == (20, min(k, len(SENTENCES)))
        ids = np.frombuffer(answer.content[: 8 * n * columns], "<i8").reshape(n, columns)
        scores = np.frombuffer(answer.content[8 * n * columns :], "<f4").reshape(n, columns)
        json_answer = search(client, vectors=vectors.tolist(), k=k).json()
        assert ids.tolist() == [[int(item["id"]) for item in row] for row in json_answer["results"]]
        assert np.allclose(scores, [[item["score"] for item in row] for row in json_answer["results"]])
        assert answer.headers["indexmill-snapshot"] == json_answer["snapshot_id"]


def test_results_of_many_vectors_keep_their_order(client: httpx.Client, published: Path) -> None:
    """200 vectors are split over idle threads and get the results of open_index, raw and in JSON."""
    index = open_index(published, "demo-images")
    vectors = np.random.default_rng(4).standard_normal((200, 1280)).astype("<f4")
    expected = [[result.item_id for result in row] for row in index.search(vectors=vectors, k=4).results]
    headers = {"Content-Type": "application/octet-stream"}
    path = "/v1/indexes/demo-images/search?k=4"
    answer = client.post(path, content=vectors.tobytes(), headers=headers | {"Accept": "application/octet-stream"})
    assert np.frombuffer(answer.content[: 8 * 800], "<i8").reshape(200, 4).tolist() == expected
    json_answer = client.post(path, content=vectors.tobytes(), headers=headers).json()["results"]
    assert [[int(item["id"]) for item in row] for row in json_answer] == expected


def test_the_fast_path_for_raw_vectors_answers_and_counts_like_the_normal_one(client: httpx.Client) -> None:
    """The same problems as on the normal path, which a content-type parameter selects; both count as one route."""

    def count_requests(status: int) -> float:
        line = f'indexmill_requests_total{{route="/v1/indexes/{{name}}/search",status="{status}"}}'
        return float(next((row.split()[-1] for row in client.get("/metrics").text.splitlines() if row.startswith(line)), 0))

    valid = np.eye(1, 384, dtype="<f4").tobytes()
    for path, body in (
        ("", valid[1:]),
        ("", b""),
        ("?k=0", valid),
        ("?k=x", valid),
        ("?nope=1", valid),
        ("?k=5&fingerprint=f", valid),
        ("", np.full(384, np.nan, "<f4").tobytes()),
        ("", bytes(4 * 384)),
    ):
        before = {status: count_requests(status) for status in (409, 422)}
        responses = [
            client.post(f"/v1/indexes/sentences/search{path}", content=body, headers={"Content-Type": kind})
            for kind in ("application/octet-stream", "application/octet-stream; dtype=float32")
        ]
        status = responses[0].status_code
        assert get_problem(responses[0], status) == get_problem(responses[1], status)
        assert count_requests(status) == before[status] + 2
    for name in ("nope", "..", "sentences/x"):
        wrong = client.post(f"/v1/indexes/{name}/search", content=valid, headers={"Content-Type": "application/octet-stream"})
        get_problem(wrong, 404)


def test_an_image_may_be_sent_as_form_body_or_base64(client: httpx.Client, digits: Path) -> None:
    """Each finds the image itself first; a form and base64 may carry several."""
    paths = sorted(digits.rglob("*.png"))[10:12]
    contents = [path.read_bytes() for path in paths]
    first = [path.relative_to(digits).as_posix() for path in paths]
    path = "/v1/indexes/demo-images/search"
    form = client.post(path, files=[("image", content) for content in contents], data={"k": "2"})
    assert [row[0] for row in get_keys(form)] == first
    assert [
        row[0] for row in get_keys(search(client, "demo-images", images=[base64.b64encode(content).decode() for content in contents]))
    ] == first
    assert get_keys(client.post(f"{path}?k=4&label=0", content=contents[0], headers={"Content-Type": "image/png"}))[0][0] == first[0]


def test_an_index_is_described_without_server_paths(client: httpx.Client, published: Path) -> None:
    """The list, the index, its labels, an item and the report do not contain the root."""
    listed = client.get("/v1/indexes").json()["indexes"]
    assert [(entry["name"], entry["ready"], entry["query_modalities"]) for entry in listed] == [
        ("sentences", True, ["text"]),
        ("demo-images", True, ["image"]),
    ]
    description = client.get("/v1/indexes/sentences").json()
    manifest = open_index(published, "sentences").manifest
    assert (description["fingerprint"], description["items"], description["metrics"]) == (
        manifest.fingerprint,
        len(SENTENCES),
        manifest.metrics,
    )
    assert client.get("/v1/indexes/sentences/labels").json() == {"labels": ["court", "kitchen", "sea", "sky"]}
    result = search(client, texts=[SENTENCES[0][1]], k=1).json()["results"][0][0]
    item = client.get(f"/v1/indexes/sentences/items/{result['id']}").json()
    assert (item["key"], item["text"], item["id"]) == ("s00", SENTENCES[0][1], result["id"])
    report = client.get("/v1/indexes/sentences/report")
    assert "sandbox" in report.headers["content-security-policy"]
    assert "<html" in report.text
    for path in ("", "/sentences", "/demo-images", "/sentences/labels", f"/sentences/items/{result['id']}"):
        assert str(published) not in client.get(f"/v1/indexes{path}").text


def test_a_thumbnail_is_made_only_from_the_indexed_bytes(build: object, root_copy: Path, digits: Path) -> None:
    """None once the file has other bytes, or for a path outside the image root."""
    index = open_index(root_copy, "demo-images")
    from indexmill.serve.thumbnails import make_thumbnail

    row = index.items.get_rows([index.search(vectors=np.eye(1, 1280), k=1).results[0][0].item_id])[0]
    assert row is not None
    image = make_thumbnail(index.manifest.image_root, row)
    assert image is not None
    assert Image.open(io.BytesIO(image)).format == "JPEG"
    assert make_thumbnail(index.manifest.image_root, {**row, "content_digest": "0" * 32}) is None
    assert make_thumbnail(index.manifest.image_root, {**row, "path": "../" * 9 + "etc/passwd"}) is None


def test_a_thumbnail_is_cached_by_its_etag(client: httpx.Client, digits: Path) -> None:
    """304 with a known ETag; 404 for a text and for an unknown item."""
    path = search(client, "demo-images", vectors=np.eye(1, 1280).tolist(), k=1).json()["results"][0][0]["thumbnail"]
    response = client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
    assert client.get(path, headers={"If-None-Match": response.headers["etag"]}).status_code == 304
    get_problem(client.get("/v1/indexes/demo-images/items/1/thumbnail"), 404)
    text = search(client, texts=["x"], k=1).json()["results"][0][0]
    assert text["thumbnail"] is None
    get_problem(client.get(f"/v1/indexes/sentences/items/{text['id']}/thumbnail"), 404)


@pytest.mark.parametrize(
    ("status", "query"),
    [
        (422, {}),
        (422, {"texts": ["a"], "items": [1]}),
        (422, {"texts": []}),
        (422, {"texts": [" "]}),
        (422, {"texts": ["a"], "k": 0}),
        (422, {"texts": ["a"], "k": 1001}),
        (422, {"texts": ["a"], "k": "many"}),
        (422, {"texts": ["a"], "more": 1}),
        (422, {"texts": ["a" * 20_001]}),
        (422, {"texts": ["a"] * 1025}),
        (422, {"vectors": [[1.0]]}),
        (422, {"vectors": 5}),
        (422, {"vectors": [[1.0] * 384, [1.0]]}),
        (422, {"vectors": [["a"] * 384]}),
        (422, {"vectors": [{}]}),
        (422, {"items": [1]}),
        (422, {"items": [-1]}),
        (422, {"items": [2**63]}),
        (422, {"images": ["R0lGOA=="]}),
        (422, {"images": ["no base64"]}),
        (422, {"texts": ["a"], "where": {"path": "x"}}),
        (409, {"texts": ["a"], "fingerprint": "another"}),
    ],
)
def test_an_invalid_query_is_a_problem(status: int, query: dict[str, object], client: httpx.Client) -> None:
    """It has a detail and contains no path."""
    assert get_problem(search(client, **query), status)["detail"]


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (422, "application/json", b"{"),
        (422, "application/json", b"\xff\xfe"),
        (422, "application/json", b'{"vectors": [[NaN]]}'),
        (422, "application/json", b"[" * 100_000),
        (422, "application/json", b'{"texts": ["\\ud800"]}'),
        (415, "text/plain", b"hello"),
        (422, "application/octet-stream", b""),
        (422, "application/octet-stream", b"\0" * 1535),
        (422, "application/octet-stream", b"\0" * 1536),
        (422, "application/octet-stream", b"\xff" * 1536),
        (422, "image/png", b"\x89PNG"),
        (400, "multipart/form-data", b"x"),
        (400, "multipart/form-data; boundary=x", b"--x\r\nbroken"),
        (422, "multipart/form-data; boundary=x", b"--x--\r\n"),
    ],
)
def test_a_malformed_body_is_a_problem(status: int, content_type: str, body: bytes, client: httpx.Client) -> None:
    """For every content type."""
    for name in NAMES:
        answer = client.post(f"/v1/indexes/{name}/search", content=body, headers={"Content-Type": content_type})
        assert get_problem(answer, answer.status_code)["status"] in (status, 422)


def test_a_decompression_bomb_is_rejected_by_its_header(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 60-megapixel PNG of a few kilobytes is not decoded."""
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    answer = running.client.post("/v1/indexes/demo-images/search", content=file.getvalue(), headers={"Content-Type": "image/png"})
    assert "40000000" in get_problem(answer, 422)["detail"]


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    """Unknown indexes, items and page files, and a wrong method."""
    for path in (
        "/nope",
        "/v1/indexes/other",
        "/v1/indexes/other/report",
        "/v1/indexes/sentences/items/1",
        "/page/../app.py",
        "/page/page.py",
    ):
        get_problem(client.get(path), 404)
    get_problem(client.get("/v1/indexes/sentences/items/x"), 422)
    get_problem(client.get("/v1/indexes/..%2f..%2fetc"), 404)
    get_problem(client.get("/v1/indexes/sentences/search"), 405)


def test_metrics_count_requests(client: httpx.Client) -> None:
    """By route and status; the snapshot being served is named."""
    before = client.get("/metrics").text
    search(client, texts=["x"])
    get_problem(client.get("/nope"), 404)
    text = client.get("/metrics").text
    line = 'indexmill_requests_total{route="/v1/indexes/{name}/search",status="200"}'
    counts = [float(next(row.rpartition(" ")[2] for row in scrape.splitlines() if row.startswith(line))) for scrape in (before, text)]
    assert counts[1] == counts[0] + 1
    assert 'indexmill_snapshot_info{index="sentences",snapshot="00001-' in text
    assert 'route="other",status="404"' in text
