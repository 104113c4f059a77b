"""The service under load, compared with the same Searcher called in process; and a soak test with a publish every 20 seconds.

Run: python -m benchmarks.serve [--items 100000] [--family auto|flat] [--seconds 5]
     python -m benchmarks.serve --soak 10          (minutes)
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any

import faiss
import httpx
import numpy as np
import psutil

from benchmarks.report import Report, make_parser
from benchmarks.serve_load import load, make_text_request, make_vector_request
from benchmarks.serve_root import NAME, make_clustered_vectors, make_root
from indexmill.serve import OpenIndex, open_index
from tests.serve.publish_helper import publish_again

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIENTS = (1, 8, 64)
BATCHES = (1, 16, 64)
PUBLISH_SECONDS = 20


@contextmanager
def run_indexmill_service(root: Path, name: str = NAME) -> Iterator[tuple[int, psutil.Process]]:
    """Run `indexmill serve` as a process; yields its port and the process."""
    with run_service([sys.executable, "-m", "indexmill", "serve", name, "--root", str(root), "--port"], "/readyz") as service:
        yield service


@contextmanager
def run_service(command: list[str], ready: str, **environment: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run a service as a process until its path `ready` returns 200. command: everything but the port, which comes last."""
    with socket.create_server(("127.0.0.1", 0)) as free_port:
        port = int(free_port.getsockname()[1])
    process = subprocess.Popen([*command, str(port)], env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment)
    try:
        end = time.monotonic() + 180
        while not _is_ready(port, ready):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
        yield port, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _is_ready(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200
    except httpx.TransportError:
        return False


def measure_in_process(index: OpenIndex, batch: int, seconds: float) -> float:
    """Measure the queries per second of the Searcher in process, with all of FAISS's threads or with one, whichever is faster.

    On a shared machine a single thread can be faster: threads wait for each other whenever one of them is preempted.
    """
    queries, rates = make_clustered_vectors(2048, seed=7), []
    for threads in (os.cpu_count() or 1, 1):
        faiss.omp_set_num_threads(threads)
        searched, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / 2:
            start_row = searched % (len(queries) - batch)
            index.searcher.search(queries[start_row : start_row + batch], 10)
            searched += batch
        rates.append(searched / spent)
    return max(rates)


def measure_recall(index: OpenIndex, count: int) -> float:
    """Measure recall@10 of the index against exact search."""
    queries, database = make_clustered_vectors(200, seed=7), make_clustered_vectors(count)
    flat = faiss.IndexFlatIP(database.shape[1])
    flat.add(database)  # type: ignore[call-arg]
    ids = index.items.filter_ids({"side": ["database"]})
    exact = ids[flat.search(queries, 10)[1]]  # type: ignore[call-arg]
    retrieved = index.searcher.search(queries, 10)[1]
    return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(exact.tolist(), retrieved.tolist(), strict=True)]))


def measure(root: Path, count: int, seconds: float) -> dict[str, Any]:
    """Load the service with each kind of query by each number of clients, and print two lines for each."""
    index, rows = open_index(root, NAME), []
    recall = measure_recall(index, count)
    print(f"{count:,} vectors, recall@10 {recall:.3f}")
    queries = make_clustered_vectors(2048, seed=7)
    with run_indexmill_service(root) as (port, process):
        for batch in BATCHES:
            requests = [make_vector_request(NAME, queries[start : start + batch]) for start in range(0, 1024, batch)]
            for clients in CLIENTS:
                in_process_rate = measure_in_process(index, batch, seconds)
                row = load_and_print(f"raw x {batch:3}, {clients:2} clients", port, process, clients, seconds, requests)
                share = row["rate"] * batch / in_process_rate
                print(f"{'':24}{row['rate'] * batch:8,.0f} queries/s, {share:.2f} of {in_process_rate:,.0f} in process", flush=True)
                rows.append({"kind": "vectors", "batch": batch, **row, "share": share, "in_process": in_process_rate})
        requests = [make_text_request(NAME, f"what is known about topic {number}") for number in range(200)]
        for clients in CLIENTS:
            row = load_and_print(f"text,      {clients:2} clients", port, process, clients, seconds, requests)
            rows.append({"kind": "texts", "batch": 1, **row})
    return {"items": count, "recall": recall, "rows": rows}


def load_and_print(title: str, port: int, process: psutil.Process, clients: int, seconds: float, requests: list[bytes]) -> dict[str, float]:
    """Load the service and print the result, with CPU milliseconds per request of the service (`cpu`) and of the clients."""
    before = sum(process.cpu_times()[:2])
    result = load(port, clients, seconds, requests)
    cpu = (sum(process.cpu_times()[:2]) - before) / result.requests * 1000
    print(f"  {title}: {result.rate:7,.0f} requests/s, p50 {result.p50:6.1f} ms, p99 {result.p99:6.1f} ms, {result.failed} failed; "
          f"CPU per request {cpu:.2f} ms, of the clients {result.cpu:.2f} ms", flush=True)  # fmt: skip
    return {"clients": clients, **result._asdict(), "cpu": cpu, "clients_cpu": result.cpu}


def soak(root: Path, minutes: float) -> dict[str, Any]:
    """Run eight clients with a publish every PUBLISH_SECONDS seconds; print failures and the service's resident memory."""
    queries = make_clustered_vectors(2048, seed=7)
    requests = [make_vector_request(NAME, queries[start : start + 4]) for start in range(0, 1024, 4)] + [
        make_text_request(NAME, f"topic {n}") for n in range(32)
    ]
    stop, resident_mb = threading.Event(), []
    with run_indexmill_service(root) as (port, process):

        def publish() -> None:
            while not stop.wait(PUBLISH_SECONDS):
                snapshot = publish_again(root, NAME, keep=1)
                resident_mb.append(process.memory_info().rss / 1e6)
                print(f"  {snapshot} published; resident {resident_mb[-1]:,.0f} MB", flush=True)

        publishing = threading.Thread(target=publish)
        publishing.start()
        result = load(port, 8, minutes * 60, requests)
        stop.set()
        publishing.join()
        print(f"{minutes} minutes: {result.requests:,} requests, {result.failed} failed, p50 {result.p50:.1f} ms, p99 {result.p99:.1f} ms")
    return {"minutes": minutes, **result._asdict(), "resident_mb": resident_mb}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw queries per second and the slowest hundredth of requests over the clients; of a soak test, memory over its swaps."""
    from benchmarks.plotting import draw_lines, split_panels

    if "rows" not in results:
        (axes,) = split_panels(figure, 1, height=3.6)
        memory = results["resident_mb"]
        axes.set_ylim(0, 1.1 * max(memory))
        draw_lines(axes, {"": (range(1, len(memory) + 1), memory)}, xlabel="swaps", ylabel="resident memory, MB")
        return
    rates, latencies = split_panels(figure, 2, height=4)
    lines = {f"{batch} vector{'s' * (batch > 1)}": ("vectors", batch) for batch in BATCHES} | {"a text": ("texts", 1)}
    for axes, column, ylabel in ((rates, "rate", "queries per second"), (latencies, "p99", "p99 of a request, milliseconds")):
        axes.set(xscale="log", yscale="log")
        series = {}
        for title, kind in lines.items():
            rows = [row for row in results["rows"] if (row["kind"], row["batch"]) == kind]
            values = [row[column] * (row["batch"] if column == "rate" else 1) for row in rows]
            series[title] = ([row["clients"] for row in rows], values)
        draw_lines(axes, series, xlabel="clients", ylabel=ylabel)
        axes.set_xticks(CLIENTS, [str(count) for count in CLIENTS])
        axes.minorticks_off()


def main() -> None:
    """Make the root, then run the load or the soak test."""
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--family", choices=["auto", "flat"], default="auto")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    options = parser.parse_args()
    report = Report(options)
    with tempfile.TemporaryDirectory() as folder:
        root = make_root(Path(folder), options.items, options.family)
        results = soak(root, options.soak) if options.soak else measure(root, options.items, options.seconds)
    report.finish(results, plot)


if __name__ == "__main__":
    main()
