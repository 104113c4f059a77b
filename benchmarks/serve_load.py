"""Load on a service: clients in a process of their own, each of which sends its next request as soon as it has a response.

Requests are prepared as bytes, and only status and length of a response are read, so that the clients take
little CPU time; it is measured.
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
    """Requests per second, latency in milliseconds (p50, p99), responses other than 200, requests, and the clients' CPU ms per request."""

    rate: float
    p50: float
    p99: float
    failed: int
    requests: int
    cpu: float


def make_request(path: str, body: bytes, content_type: str, accept: str = "*/*") -> bytes:
    """Make one HTTP/1.1 request that keeps its connection open."""
    head = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        f"Accept: {accept}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


def make_vector_request(name: str, vectors: np.ndarray, k: int = 10) -> bytes:
    """Make a search for raw float32 vectors with a binary response."""
    content_type = "application/octet-stream"
    return make_request(f"/v1/indexes/{name}/search?k={k}", vectors.astype("<f4").tobytes(), content_type, content_type)


def make_text_request(name: str, query: str, k: int = 10) -> bytes:
    """Make a search for one text."""
    return make_request(f"/v1/indexes/{name}/search", json.dumps({"texts": [query], "k": k}).encode(), "application/json")


def load(port: int, clients: int, seconds: float, requests: list[bytes]) -> Load:
    """Send the requests in turn from several clients for a number of seconds."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        latencies, failed, wall, cpu = pool.submit(_run_clients, port, clients, seconds, requests).result()
    milliseconds, count = np.array(latencies) * 1000, len(latencies)
    return Load(count / wall, float(np.median(milliseconds)), float(np.percentile(milliseconds, 99)), failed, count, cpu / count * 1000)


def _run_clients(port: int, clients: int, seconds: float, requests: list[bytes]) -> tuple[list[float], int, float, float]:
    started, cpu_started = time.perf_counter(), time.process_time()
    finished_clients = asyncio.run(_run_client_loop(port, clients, started + seconds, requests))
    latencies = [latency for client in finished_clients for latency in client.latencies]
    return latencies, sum(client.failed for client in finished_clients), time.perf_counter() - started, time.process_time() - cpu_started


async def _run_client_loop(port: int, clients: int, end: float, requests: list[bytes]) -> list[_Client]:
    loop = asyncio.get_running_loop()
    request_streams = [islice(_repeat(requests), number, None, clients) for number in range(clients)]
    connections = [
        await loop.create_connection(lambda request_stream=request_stream: _Client(request_stream, end), "127.0.0.1", port)
        for request_stream in request_streams
    ]  # type: ignore[misc]
    for _, client in connections:
        await client.done
    return [client for _, client in connections]


def _repeat(requests: list[bytes]) -> Iterator[bytes]:
    while True:
        yield from requests


class _Client(asyncio.Protocol):
    """One connection, one request at a time, until `end`."""

    def __init__(self, request_stream: Iterator[bytes], end: float) -> None:
        self.request_stream, self.end = request_stream, end
        self.latencies: list[float] = []
        self.failed, self.missing_bytes = 0, 0  # bytes of the response body still to come
        self.received = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send_request()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the service closed a connection"))

    def data_received(self, data: bytes) -> None:
        if not self.missing_bytes:
            self.received += data
            head, separator, body = self.received.partition(b"\r\n\r\n")
            if not separator:
                return
            self.missing_bytes = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            self.failed += not head.startswith(b"HTTP/1.1 200")
            self.received, data = b"", body
        self.missing_bytes -= len(data)
        if not self.missing_bytes:
            self.latencies.append(time.perf_counter() - self.request_started)
            self._send_request()

    def _send_request(self) -> None:
        self.request_started = time.perf_counter()
        if self.request_started < self.end:
            self.transport.write(next(self.request_stream))
        else:
            self.done.set_result(None)
            self.transport.close()
