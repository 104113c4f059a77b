"""The REST interface, asked over HTTP."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from indexmill.serve import open_index
from tests.serve.conftest import SENTENCES, RunningService, get_keys, search, get_problem

NAMES = ["sentences", "demo-images"]


def test_the_service_answers_as_python_does(client: httpx.Client, published: Path) -> None:
    """Keys, scores, distances, ids and snapshot of texts, items and vectors, with and without a filter, equal those of open_index."""
    index = open_index(published, "sentences")
    ids = [result.item_id for result in index.search(texts=["x"], k=4).results[0]]
    vectors = np.random.default_rng(3).standard_normal((3, 384)).astype(np.float32)
    for asked in ({"texts": ["a boat", "bread"]}, {"items": ids}, {"vectors": vectors.tolist()}, {"texts": ["a boat"], "label": "court"},
                  {"texts": ["a boat"], "where": {"key": ["s00", "s03"]}, "rerank": False}):  # fmt: skip
        answer = search(client, k=5, **asked).json()
        expected = index.search(k=5, **asked)  # type: ignore[arg-type]
        got = [[(int(item["id"]), item["rank"], item["key"], item["label"], item["text"]) for item in row] for row in answer["results"]]
        assert got == [[(one.item_id, one.rank, one.key, one.label, one.text) for one in row] for row in expected.results]
        assert np.allclose(
            [item["score"] for row in answer["results"] for item in row], [one.score for row in expected.results for one in row], atol=1e-5
        )
        assert answer["snapshot_id"] == index.manifest.snapshot_id


def test_raw_floats_ask_as_numbers_in_json_do_and_fields_can_be_left_out(client: httpx.Client) -> None:
    """The same ids and scores, nothing else with an empty list of fields."""
    vectors = np.random.default_rng(3).standard_normal((20, 384)).astype("<f4")
    long = search(client, vectors=vectors.tolist(), k=3).json()["results"]
    raw = client.post(
        "/v1/indexes/sentences/search?k=3&fields=", content=vectors.tobytes(), headers={"Content-Type": "application/octet-stream"}
    )
    assert raw.json()["results"] == [[{"id": item["id"], "score": item["score"]} for item in row] for row in long]


def test_answers_in_bytes_are_those_in_json(client: httpx.Client) -> None:
    """Ids as int64 and scores as float32, as many as the header says; fewer items than k give fewer columns."""
    vectors = np.random.default_rng(3).standard_normal((20, 384)).astype("<f4")
    headers = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
    for k in (3, 100):
        answer = client.post(f"/v1/indexes/sentences/search?k={k}", content=vectors.tobytes(), headers=headers)
        n, held = map(int, answer.headers["indexmill-shape"].split(","))
        assert (n, held) == (20, min(k, len(SENTENCES)))
        ids = np.frombuffer(answer.content[: 8 * n * held], "<i8").reshape(n, held)
        scores = np.frombuffer(answer.content[8 * n * held :], "<f4").reshape(n, held)
        told = search(client, vectors=vectors.tolist(), k=k).json()
        assert ids.tolist() == [[int(item["id"]) for item in row] for row in told["results"]]
        assert np.allclose(scores, [[item["score"] for item in row] for row in told["results"]])
        assert answer.headers["indexmill-snapshot"] == told["snapshot_id"]


def test_a_request_of_many_vectors_is_answered_in_their_order_whoever_does_which(client: httpx.Client, published: Path) -> None:
    """Threads that are free each take a part: 200 vectors, in bytes and with every field, get the answers of open_index."""
    index = open_index(published, "demo-images")
    vectors = np.random.default_rng(4).standard_normal((200, 1280)).astype("<f4")
    expected = [[result.item_id for result in row] for row in index.search(vectors=vectors, k=4).results]
    headers = {"Content-Type": "application/octet-stream"}
    place = "/v1/indexes/demo-images/search?k=4"
    answer = client.post(place, content=vectors.tobytes(), headers=headers | {"Accept": "application/octet-stream"})
    assert np.frombuffer(answer.content[: 8 * 800], "<i8").reshape(200, 4).tolist() == expected
    told = client.post(place, content=vectors.tobytes(), headers=headers).json()["results"]
    assert [[int(item["id"]) for item in row] for row in told] == expected


def test_vectors_in_bytes_go_a_way_of_their_own_that_refuses_and_counts_alike(client: httpx.Client) -> None:
    """The same problems as by the other way, which a parameter of the content type leads to; the metrics know one route."""

    def counted(status: int) -> float:
        line = f'indexmill_requests_total{{route="/v1/indexes/{{name}}/search",status="{status}"}}'
        return float(next((row.split()[-1] for row in client.get("/metrics").text.splitlines() if row.startswith(line)), 0))

    good = np.eye(1, 384, dtype="<f4").tobytes()
    for path, body in (("", good[1:]), ("", b""), ("?k=0", good), ("?k=x", good), ("?nope=1", good), ("?k=5&fingerprint=f", good),
                       ("", np.full(384, np.nan, "<f4").tobytes()), ("", bytes(4 * 384))):  # fmt: skip
        before = {status: counted(status) for status in (409, 422)}
        answers = [
            client.post(f"/v1/indexes/sentences/search{path}", content=body, headers={"Content-Type": kind})
            for kind in ("application/octet-stream", "application/octet-stream; of=floats")
        ]
        status = answers[0].status_code
        assert get_problem(answers[0], status) == get_problem(answers[1], status)
        assert counted(status) == before[status] + 2
    for name in ("nope", "..", "sentences/x"):
        wrong = client.post(f"/v1/indexes/{name}/search", content=good, headers={"Content-Type": "application/octet-stream"})
        get_problem(wrong, 404)


def test_an_image_may_come_as_form_body_or_base64(client: httpx.Client, digits: Path) -> None:
    """All three find the picture itself first; a form and base64 may bring several."""
    paths = sorted(digits.rglob("*.png"))[10:12]
    contents = [path.read_bytes() for path in paths]
    first = [path.relative_to(digits).as_posix() for path in paths]
    place = "/v1/indexes/demo-images/search"
    form = client.post(place, files=[("image", content) for content in contents], data={"k": "2"})
    assert [row[0] for row in get_keys(form)] == first
    assert [
        row[0] for row in get_keys(search(client, "demo-images", images=[base64.b64encode(content).decode() for content in contents]))
    ] == first
    assert get_keys(client.post(f"{place}?k=4&label=0", content=contents[0], headers={"Content-Type": "image/png"}))[0][0] == first[0]


def test_an_index_tells_of_itself_and_not_of_where_it_lies(client: httpx.Client, published: Path) -> None:
    """List, figures, labels, an item, its picture, the report; none names the root."""
    listed = client.get("/v1/indexes").json()["indexes"]
    assert [(one["name"], one["ready"], one["takes"]) for one in listed] == [
        ("sentences", True, ["text"]),
        ("demo-images", True, ["image"]),
    ]
    figures = client.get("/v1/indexes/sentences").json()
    manifest = open_index(published, "sentences").manifest
    assert (figures["fingerprint"], figures["items"], figures["metrics"]) == (manifest.fingerprint, len(SENTENCES), manifest.metrics)
    assert client.get("/v1/indexes/sentences/labels").json() == {"labels": ["court", "kitchen", "sea", "sky"]}
    found = search(client, texts=[SENTENCES[0][1]], k=1).json()["results"][0][0]
    item = client.get(f"/v1/indexes/sentences/items/{found['id']}").json()
    assert (item["key"], item["text"], item["id"]) == ("s00", SENTENCES[0][1], found["id"])
    report = client.get("/v1/indexes/sentences/report")
    assert "sandbox" in report.headers["content-security-policy"]
    assert "<html" in report.text
    for path in ("", "/sentences", "/demo-images", "/sentences/labels", f"/sentences/items/{found['id']}"):
        assert str(published) not in client.get(f"/v1/indexes{path}").text


def test_a_thumbnail_is_shown_while_the_file_is_what_was_indexed(build: object, root_copy: Path, digits: Path) -> None:
    """A JPEG with an ETag; 304 when it is known; 404 for a text, an unknown id, and once the file has other bytes."""
    index = open_index(root_copy, "demo-images")
    from indexmill.serve.thumbnails import make_thumbnail

    row = index.items.get_rows([index.search(vectors=np.eye(1, 1280), k=1).results[0][0].item_id])[0]
    assert row is not None
    picture = make_thumbnail(index.manifest.image_root, row)
    assert picture is not None
    assert Image.open(io.BytesIO(picture)).format == "JPEG"
    assert make_thumbnail(index.manifest.image_root, {**row, "content_digest": "0" * 32}) is None
    assert make_thumbnail(index.manifest.image_root, {**row, "path": "../" * 9 + "etc/passwd"}) is None


def test_a_thumbnail_comes_once(client: httpx.Client, digits: Path) -> None:
    """With an ETag that makes it a 304; 404 for an item that is a text or is not there."""
    path = search(client, "demo-images", vectors=np.eye(1, 1280).tolist(), k=1).json()["results"][0][0]["thumbnail"]
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert client.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    get_problem(client.get("/v1/indexes/demo-images/items/1/thumbnail"), 404)
    text = search(client, texts=["x"], k=1).json()["results"][0][0]
    assert text["thumbnail"] is None
    get_problem(client.get(f"/v1/indexes/sentences/items/{text['id']}/thumbnail"), 404)


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (422, {}), (422, {"texts": ["a"], "items": [1]}), (422, {"texts": []}), (422, {"texts": [" "]}), (422, {"texts": ["a"], "k": 0}),
        (422, {"texts": ["a"], "k": 1001}), (422, {"texts": ["a"], "k": "many"}), (422, {"texts": ["a"], "more": 1}),
        (422, {"texts": ["a" * 20_001]}),
        (422, {"texts": ["a"] * 1025}), (422, {"vectors": [[1.0]]}), (422, {"vectors": 5}), (422, {"vectors": [[1.0] * 384, [1.0]]}),
        (422, {"vectors": [["a"] * 384]}), (422, {"vectors": [{}]}), (422, {"items": [1]}), (422, {"items": [-1]}),
        (422, {"items": [2**63]}),
        (422, {"images": ["R0lGOA=="]}), (422, {"images": ["no base64"]}), (422, {"texts": ["a"], "where": {"path": "x"}}),
        (409, {"texts": ["a"], "fingerprint": "another"}),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_a_problem(status: int, asked: dict[str, object], client: httpx.Client) -> None:
    """Of RFC 9457, with a sentence and no path."""
    assert get_problem(search(client, **asked), status)["detail"]


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (422, "application/json", b"{"), (422, "application/json", b"\xff\xfe"), (422, "application/json", b'{"vectors": [[NaN]]}'),
        (422, "application/json", b"[" * 100_000), (422, "application/json", b'{"texts": ["\\ud800"]}'), (415, "text/plain", b"hello"),
        (422, "application/octet-stream", b""), (422, "application/octet-stream", b"\0" * 1535),
        (422, "application/octet-stream", b"\0" * 1536),
        (422, "application/octet-stream", b"\xff" * 1536), (422, "image/png", b"\x89PNG"), (400, "multipart/form-data", b"x"),
        (400, "multipart/form-data; boundary=x", b"--x\r\nbroken"), (422, "multipart/form-data; boundary=x", b"--x--\r\n"),
    ],
)  # fmt: skip
def test_a_broken_body_is_a_problem(status: int, kind: str, body: bytes, client: httpx.Client) -> None:
    """Of any kind of body."""
    for name in NAMES:
        answer = client.post(f"/v1/indexes/{name}/search", content=body, headers={"Content-Type": kind})
        assert get_problem(answer, answer.status_code)["status"] in (status, 422)


def test_a_picture_larger_than_its_bytes_say_is_refused_by_its_header(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG of 60 megapixels in a few kilobytes is not decoded."""
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    answer = running.client.post("/v1/indexes/demo-images/search", content=file.getvalue(), headers={"Content-Type": "image/png"})
    assert "40000000" in get_problem(answer, 422)["detail"]


def test_paths_that_are_not_there_are_problems_too(client: httpx.Client) -> None:
    """Unknown indexes, items and pages, and other methods."""
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


def test_the_figures_count_what_was_asked(client: httpx.Client) -> None:
    """By route and status, with the snapshot that answers."""
    before = client.get("/metrics").text
    search(client, texts=["x"])
    get_problem(client.get("/nope"), 404)
    text = client.get("/metrics").text
    line = 'indexmill_requests_total{route="/v1/indexes/{name}/search",status="200"}'
    counts = [float(next(row.rpartition(" ")[2] for row in told.splitlines() if row.startswith(line))) for told in (before, text)]
    assert counts[1] == counts[0] + 1
    assert 'indexmill_snapshot_info{index="sentences",snapshot="00001-' in text
    assert 'route="other",status="404"' in text
