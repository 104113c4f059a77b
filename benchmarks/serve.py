"""The service under load, against the same Searcher called in its own process; and for a long time, with a publish every 20 seconds.

Run: python -m benchmarks.serve [--items 100000] [--family auto|flat] [--seconds 5]
     python -m benchmarks.serve --soak 10          (minutes)
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss
import httpx
import numpy as np
import psutil

from benchmarks.serve_load import load, raw, text
from benchmarks.serve_root import NAME, clustered, make_root
from indexmill.serve import OpenIndex, open_index
from tests.serve.publish_helper import publish_again

CLIENTS = (1, 8, 64)
BATCHES = (1, 16, 64)
EVERY = 20


@contextmanager
def served(root: Path, name: str = NAME) -> Iterator[tuple[int, psutil.Process]]:
    """`indexmill serve` as a process of its own: its port, and the process."""
    with running([sys.executable, "-m", "indexmill", "serve", name, "--root", str(root), "--port"], "/readyz") as both:
        yield both


@contextmanager
def running(command: list[str], ready: str, **environment: str) -> Iterator[tuple[int, psutil.Process]]:
    """A service as a process of its own, once its path `ready` gives 200. command: all but the port, which comes last."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    process = subprocess.Popen([*command, str(port)], env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment)
    try:
        end = time.monotonic() + 180
        while not _ready(port, ready):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
        yield port, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _ready(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200
    except httpx.TransportError:
        return False


def in_process(index: OpenIndex, batch: int, seconds: float) -> float:
    """Queries a second of the Searcher alone, batch after batch: with all of FAISS's threads or with one, whichever is quicker.

    On a machine that others use, one is: two wait for each other whenever one of them is not running.
    """
    queries, rates = clustered(2048, seed=7), []
    for threads in (os.cpu_count() or 1, 1):
        faiss.omp_set_num_threads(threads)
        done, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / 2:
            place = done % (len(queries) - batch)
            index.searcher.search(queries[place : place + batch], 10)
            done += batch
        rates.append(done / spent)
    return max(rates)


def recall(index: OpenIndex, count: int) -> float:
    """recall@10 of the index against exact search."""
    queries, database = clustered(200, seed=7), clustered(count)
    flat = faiss.IndexFlatIP(database.shape[1])
    flat.add(database)  # type: ignore[call-arg]
    ids = index.items.matching({"side": ["database"]})
    exact = ids[flat.search(queries, 10)[1]]  # type: ignore[call-arg]
    found = index.searcher.search(queries, 10)[1]
    return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)]))


def measure(root: Path, count: int, seconds: float) -> None:
    """Print a line for each kind of query and number of clients."""
    index = open_index(root, NAME)
    print(f"{count} vectors, recall@10 {recall(index, count):.3f}, load average {os.getloadavg()[0]:.1f} before")
    queries = clustered(2048, seed=7)
    with served(root) as (port, process):
        for batch in BATCHES:
            requests = [raw(NAME, queries[start : start + batch]) for start in range(0, 1024, batch)]
            for clients in CLIENTS:
                alone = in_process(index, batch, seconds)
                rate = told(f"raw x {batch:3}, {clients:2} clients", port, process, clients, seconds, requests) * batch
                print(f"{'':24}{rate:8,.0f} queries/s, {rate / alone:.2f} of {alone:,.0f} in process just before", flush=True)
        requests = [text(NAME, f"what is said of topic {number}") for number in range(200)]
        for clients in CLIENTS:
            told(f"text,      {clients:2} clients", port, process, clients, seconds, requests)
    print(f"load average {os.getloadavg()[0]:.1f}")


def told(what: str, port: int, process: psutil.Process, clients: int, seconds: float, requests: list[bytes]) -> float:
    """Load the service and print what was seen, CPU time of the service and of the clients with it; requests a second."""
    before = sum(process.cpu_times()[:2])
    seen = load(port, clients, seconds, requests)
    cpu = (sum(process.cpu_times()[:2]) - before) / seen.requests * 1000
    print(f"  {what}: {seen.rate:7,.0f} requests/s, p50 {seen.p50:6.1f} ms, p99 {seen.p99:6.1f} ms, {seen.failed} failed; "
          f"CPU {cpu:.2f} ms a request, {seen.cpu:.2f} ms of the clients'", flush=True)  # fmt: skip
    return seen.rate


def soak(root: Path, minutes: float) -> None:
    """Eight clients for so long, a publish every EVERY seconds; failures and the service's resident memory."""
    queries = clustered(2048, seed=7)
    requests = [raw(NAME, queries[start : start + 4]) for start in range(0, 1024, 4)] + [text(NAME, f"topic {n}") for n in range(32)]
    stop = threading.Event()
    with served(root) as (port, process):

        def publish() -> None:
            while not stop.wait(EVERY):
                snapshot = publish_again(root, NAME, keep=1)
                print(f"  {snapshot} published; resident {process.memory_info().rss / 1e6:,.0f} MB", flush=True)

        publishing = threading.Thread(target=publish)
        publishing.start()
        seen = load(port, 8, minutes * 60, requests)
        stop.set()
        publishing.join()
        print(f"{minutes} minutes: {seen.requests:,} requests, {seen.failed} failed, p50 {seen.p50:.1f} ms, p99 {seen.p99:.1f} ms")


def main() -> None:
    """Make the root, then load or soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--family", choices=["auto", "flat"], default="auto")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = make_root(Path(folder), chosen.items, chosen.family)
        soak(root, chosen.soak) if chosen.soak else measure(root, chosen.items, chosen.seconds)


if __name__ == "__main__":
    main()
