"""New snapshots while requests come in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from indexmill.serve.http.app import create_app
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from tests.serve.conftest import SENTENCES, Running, search, sound
from tests.serve.publishing import publish_again


@pytest.fixture
def own(root_copy: Path) -> Iterator[Running]:
    """A service over a root of the test's own, which looks ten times a second."""
    service = Running(create_app(root_copy, ["sentences"], poll_seconds=0.1))
    try:
        service.ready()
        yield service
    finally:
        service.close()


def live(service: Running) -> str:
    return str(service.client.get("/v1/indexes/sentences").json()["snapshot_id"])


def waited(service: Running, snapshot_id: str) -> None:
    end = time.monotonic() + 30
    while live(service) != snapshot_id:
        assert time.monotonic() < end, f"{live(service)} still answers and not {snapshot_id}"
        time.sleep(0.05)


def test_three_snapshots_are_published_under_load_and_no_request_fails(own: Running, root_copy: Path) -> None:
    """Eight clients ask all the while: every answer is right and names a snapshot that was live, all three new ones answer, old ones are
    removed under it, and the memory of the process stays what it was after the first."""
    asked: list[tuple[int, str, str]] = []
    stop = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=own.client.base_url, timeout=60) as client:
            while not stop.is_set():
                answer = search(client, texts=[SENTENCES[number][1]], k=2)
                told = answer.json()
                asked.append(
                    (answer.status_code, told.get("snapshot_id", ""), told["results"][0][0]["key"] if "results" in told else answer.text)
                )
                assert told["results"][0][0]["key"] == f"s{number:02d}"

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    published = [live(own)]
    memory = []
    for _ in range(3):
        time.sleep(0.5)
        published.append(publish_again(root_copy, "sentences", keep=1))
        waited(own, published[-1])
        memory.append(psutil.Process().memory_info().rss)
    time.sleep(0.5)
    stop.set()
    for client in clients:
        client.join(30)
    assert [answer for answer in asked if answer[0] != 200] == []
    assert {snapshot for _, snapshot, _ in asked} == set(published)
    assert memory[-1] < memory[0] + 50_000_000
    # The last one but one was still held when the last was published; it goes the next time.
    assert sorted(path.name for path in (root_copy / "indexes/sentences/snapshots").iterdir()) == published[-2:]


def test_a_snapshot_that_does_not_verify_is_not_taken_and_the_next_one_is(own: Running, root_copy: Path) -> None:
    """The old one answers on, list and metrics say so, and a sound one that follows takes its place."""
    first = live(own)
    place = Root(root_copy, create=False)
    snapshots = Snapshots(place, "sentences")
    broken = publish_again(root_copy, "sentences", live=False)
    path = snapshots.get_path(broken) / "shard-00000.faiss"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    snapshots.publish(broken)
    end = time.monotonic() + 20
    while not own.client.get("/v1/indexes").json()["indexes"][0]["error"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert search(own.client, texts=["x"]).json()["snapshot_id"] == first
    assert 'indexmill_snapshot_refused_total{index="sentences"} 1.0' in own.client.get("/metrics").text
    snapshots.publish(first)
    sound_one = publish_again(root_copy, "sentences")
    waited(own, sound_one)
    assert own.client.get("/v1/indexes").json()["indexes"][0]["error"] is None
    place.close()


def test_a_snapshot_of_another_encoder_is_not_taken(own: Running, root_copy: Path) -> None:
    """Its vectors could not be asked with what is installed here."""
    first = live(own)
    publish_again(root_copy, "sentences", fingerprint="0" * 32)
    end = time.monotonic() + 20
    while not own.client.get("/v1/indexes").json()["indexes"][0]["error"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert live(own) == first


def test_an_index_is_served_from_when_it_is_first_published(root_copy: Path) -> None:
    """Until then 503 with Retry-After, and not ready."""
    pointer = root_copy / "indexes/sentences/current"
    snapshot_id = pointer.read_text()
    pointer.unlink()
    service = Running(create_app(root_copy, ["sentences"], poll_seconds=0.1))
    try:
        assert sound(service.client.get("/readyz"), 503)["detail"] == "without a snapshot yet: sentences"
        assert search(service.client, texts=["x"]).headers["retry-after"] == "5"
        assert service.client.get("/healthz").status_code == 200
        pointer.write_text(snapshot_id)
        service.ready()
        assert search(service.client, texts=["x"]).status_code == 200
    finally:
        service.close()
