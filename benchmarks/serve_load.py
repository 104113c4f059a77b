"""Load on a service: clients that each ask again as soon as they are answered, in a process of their own.

They write the bytes of requests that were made before and read no more of an answer than its status and length, so that little of the
machine's time is theirs; how much is told.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np


class Load(NamedTuple):
    """What was seen: requests a second, milliseconds at the median and at 99 %, answers that were not 200, requests, and the milliseconds
    of CPU that the clients took for each.
    """

    rate: float
    p50: float
    p99: float
    failed: int
    requests: int
    cpu: float


def request_bytes(path: str, body: bytes, kind: str, accept: str = "*/*") -> bytes:
    """One request of HTTP/1.1 that keeps its connection."""
    head = (f"POST {path} HTTP/1.1", "Host: localhost", f"Accept: {accept}", f"Content-Type: {kind}", f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def raw(name: str, vectors: np.ndarray, k: int = 10) -> bytes:
    """A search for vectors as float32, answered in bytes too."""
    kind = "application/octet-stream"
    return request_bytes(f"/v1/indexes/{name}/search?k={k}", vectors.astype("<f4").tobytes(), kind, kind)


def text(name: str, query: str, k: int = 10) -> bytes:
    """A search for one text."""
    return request_bytes(f"/v1/indexes/{name}/search", json.dumps({"texts": [query], "k": k}).encode(), "application/json")


def load(port: int, clients: int, seconds: float, requests: list[bytes]) -> Load:
    """Ask for so long by so many clients, the requests in turn."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        spent, failed, wall, cpu = pool.submit(_loaded, port, clients, seconds, requests).result()
    milliseconds, count = np.array(spent) * 1000, len(spent)
    return Load(count / wall, float(np.median(milliseconds)), float(np.percentile(milliseconds, 99)), failed, count, cpu / count * 1000)


def _loaded(port: int, clients: int, seconds: float, requests: list[bytes]) -> tuple[list[float], int, float, float]:
    begun, used = time.perf_counter(), time.process_time()
    seen = asyncio.run(_all(port, clients, begun + seconds, requests))
    spent = [one for client in seen for one in client.spent]
    return spent, sum(client.failed for client in seen), time.perf_counter() - begun, time.process_time() - used


async def _all(port: int, clients: int, end: float, requests: list[bytes]) -> list[_Client]:
    loop = asyncio.get_running_loop()
    turns = [islice(_turning(requests), number, None, clients) for number in range(clients)]
    made = [await loop.create_connection(lambda turn=turn: _Client(turn, end), "127.0.0.1", port) for turn in turns]  # type: ignore[misc]
    for _, client in made:
        await client.done
    return [client for _, client in made]


def _turning(requests: list[bytes]) -> Iterator[bytes]:
    while True:
        yield from requests


class _Client(asyncio.Protocol):
    """One connection, one request at a time, until `end`."""

    def __init__(self, turn: Iterator[bytes], end: float) -> None:
        self.turn, self.end = turn, end
        self.spent: list[float] = []
        self.failed, self.missing = 0, 0  # bytes of the answer that are still to come, once its head is there
        self.held = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._ask()

    def connection_lost(self, problem: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(problem or ConnectionError("the service closed a connection"))

    def data_received(self, data: bytes) -> None:
        if not self.missing:
            self.held += data
            head, found, body = self.held.partition(b"\r\n\r\n")
            if not found:
                return
            self.missing = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            self.failed += not head.startswith(b"HTTP/1.1 200")
            self.held, data = b"", body
        self.missing -= len(data)
        if not self.missing:
            self.spent.append(time.perf_counter() - self.begun)
            self._ask()

    def _ask(self) -> None:
        self.begun = time.perf_counter()
        if self.begun < self.end:
            self.transport.write(next(self.turn))
        else:
            self.done.set_result(None)
            self.transport.close()
