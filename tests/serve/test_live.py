"""New snapshots are swapped in while requests are answered."""

from __future__ import annotations

import subprocess
import sys
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
from tests.conftest import FinishedBuild
from tests.serve.conftest import SENTENCES, RunningService, get_problem, search
from tests.serve.publish_helper import publish_again


@pytest.fixture
def service(root_copy: Path) -> Iterator[RunningService]:
    """A service over a copy of the root, which polls ten times a second."""
    running_service = RunningService(create_app(root_copy, ["sentences"], poll_seconds=0.1))
    try:
        running_service.wait_until_ready()
        yield running_service
    finally:
        running_service.close()


@pytest.mark.slow
def test_indexes_are_opened_together_in_a_process_without_torch(finished_build: FinishedBuild) -> None:
    """Importing torch's libraries, and loading models, in two threads at once fails; so they take turns."""
    code = """
import asyncio, sys
from indexmill.serve.http.live import LiveIndex
from indexmill.serve.http.metrics import Metrics
from indexmill.storage.root import Root

async def main():
    indexes = [LiveIndex(Root(sys.argv[1], create=False), "demo-images", Metrics()) for _ in range(3)]
    await asyncio.gather(*(index.refresh() for index in indexes))
    print([index.error for index in indexes])

asyncio.run(main())
"""
    run = subprocess.run([sys.executable, "-c", code, str(finished_build.root)], capture_output=True, text=True, timeout=600)
    assert run.stdout.strip() == "['', '', '']", run.stderr


def get_live_id(service: RunningService) -> str:
    return str(service.client.get("/v1/indexes/sentences").json()["snapshot_id"])


def wait_for_snapshot(service: RunningService, snapshot_id: str) -> None:
    end = time.monotonic() + 300
    while get_live_id(service) != snapshot_id:
        assert time.monotonic() < end, f"{get_live_id(service)} is still served instead of {snapshot_id}"
        time.sleep(0.05)


@pytest.mark.slow
def test_no_request_fails_while_three_snapshots_are_published(service: RunningService, root_copy: Path) -> None:
    """Every answer to eight clients is right; all snapshots are served, old ones removed, and memory does not grow."""
    answers: list[tuple[int, str, str]] = []
    stop = threading.Event()

    def search_repeatedly(number: int) -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=300) as client:
            while not stop.is_set():
                response = search(client, texts=[SENTENCES[number][1]], k=2)
                body = response.json()
                top = body["results"][0][0]["key"] if "results" in body else response.text
                answers.append((response.status_code, body.get("snapshot_id", ""), top))
                assert body["results"][0][0]["key"] == f"s{number:02d}"

    def wait_for_answers(snapshot_id: str) -> None:
        """Until eight answers came from this snapshot."""
        end = time.monotonic() + 300
        while sum(answer[1] == snapshot_id for answer in answers) < 8:
            assert time.monotonic() < end
            time.sleep(0.05)

    clients = [threading.Thread(target=search_repeatedly, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    published = [get_live_id(service)]
    memory = []
    for _ in range(3):
        wait_for_answers(published[-1])
        published.append(publish_again(root_copy, "sentences", keep=1))
        wait_for_snapshot(service, published[-1])
        memory.append(psutil.Process().memory_info().rss)
    wait_for_answers(published[-1])
    stop.set()
    for client in clients:
        client.join(300)
    assert [answer for answer in answers if answer[0] != 200] == []
    assert {snapshot for _, snapshot, _ in answers} == set(published)
    assert memory[-1] < memory[0] + 50_000_000
    # The second-to-last snapshot was still open when the last one was published, so it is removed the next time.
    assert sorted(path.name for path in (root_copy / "indexes/sentences/snapshots").iterdir()) == published[-2:]


def test_a_damaged_snapshot_is_not_served_and_the_next_one_is(service: RunningService, root_copy: Path) -> None:
    """The old snapshot stays in service, the list and the metrics report the error, and an intact successor is served."""
    first = get_live_id(service)
    root = Root(root_copy, create=False)
    snapshots = Snapshots(root, "sentences")
    broken = publish_again(root_copy, "sentences", live=False)
    path = snapshots.get_path(broken) / "shard-00000.faiss"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    snapshots.publish(broken)
    end = time.monotonic() + 300
    while not service.client.get("/v1/indexes").json()["indexes"][0]["error"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert search(service.client, texts=["x"]).json()["snapshot_id"] == first
    assert 'indexmill_snapshot_open_failures_total{index="sentences"} 1.0' in service.client.get("/metrics").text
    snapshots.publish(first)
    intact = publish_again(root_copy, "sentences")
    wait_for_snapshot(service, intact)
    assert service.client.get("/v1/indexes").json()["indexes"][0]["error"] is None
    root.close()


def test_a_snapshot_of_another_encoder_is_not_served(service: RunningService, root_copy: Path) -> None:
    """The installed encoder could not encode queries for it."""
    first = get_live_id(service)
    publish_again(root_copy, "sentences", fingerprint="0" * 32)
    end = time.monotonic() + 300
    while not service.client.get("/v1/indexes").json()["indexes"][0]["error"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert get_live_id(service) == first


def test_an_index_is_served_as_soon_as_it_is_published(root_copy: Path) -> None:
    """Until then the service answers 503 with Retry-After and is not ready."""
    pointer = root_copy / "indexes/sentences/current"
    snapshot_id = pointer.read_text()
    pointer.unlink()
    service = RunningService(create_app(root_copy, ["sentences"], poll_seconds=0.1))
    try:
        assert get_problem(service.client.get("/readyz"), 503)["detail"] == "no snapshot yet: sentences"
        assert search(service.client, texts=["x"]).headers["retry-after"] == "5"
        assert service.client.get("/healthz").status_code == 200
        pointer.write_text(snapshot_id)
        service.wait_until_ready()
        assert search(service.client, texts=["x"]).status_code == 200
    finally:
        service.close()
