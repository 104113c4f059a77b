"""Load on a service: clients that each ask again as soon as they are answered, in a process of their own.

They write the bytes of requests that were made before and read no more of an answer than its status and length, so that little of the
machine's time is theirs.
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np


class Load(NamedTuple):
    """What was seen: requests a second, milliseconds at the median and at 99 %, answers that were not 200."""

    rate: float
    p50: float
    p99: float
    failed: int
    requests: int


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
        spent, failed, wall = pool.submit(_loaded, port, clients, seconds, requests).result()
    milliseconds = np.array(spent) * 1000
    return Load(len(spent) / wall, float(np.median(milliseconds)), float(np.percentile(milliseconds, 99)), failed, len(spent))


def _loaded(port: int, clients: int, seconds: float, requests: list[bytes]) -> tuple[list[float], int, float]:
    return asyncio.run(_all(port, clients, seconds, requests))


async def _all(port: int, clients: int, seconds: float, requests: list[bytes]) -> tuple[list[float], int, float]:
    spent: list[float] = []
    failures = [0]
    start = time.perf_counter()
    await asyncio.gather(*(_client(port, number, clients, start + seconds, requests, spent, failures) for number in range(clients)))
    return spent, failures[0], time.perf_counter() - start


async def _client(
    port: int, number: int, clients: int, end: float, requests: list[bytes], spent: list[float], failures: list[int]
) -> None:  # fmt: skip
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    place = number
    while (begun := time.perf_counter()) < end:
        writer.write(requests[place % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        await reader.readexactly(int(length))
        spent.append(time.perf_counter() - begun)
        failures[0] += not head.startswith(b"HTTP/1.1 200")
        place += clients
    writer.close()
