"""Memory, open files, maps and threads of `indexmill serve` while it swaps in one snapshot after another.

Every swap is a new snapshot under a new id, with a few requests before the next; the old one is removed. A line is
what /proc says of the process after a swap; the slopes are least squares over the swaps after the first ten (over all
if there are fewer than twenty).

Run: python -m benchmarks.serve_swaps [--swaps 200] [--items 20000] [--root ROOT]
ROOT is one that `benchmarks.serve_root.make_root` made.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil

from benchmarks.report import Report, make_parser
from benchmarks.serve import run_indexmill_service
from benchmarks.serve_root import NAME, make_clustered_vectors, make_root
from tests.serve.publish_helper import publish_again

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WARM_UP_SWAPS = 10
REQUESTS_PER_SWAP = 8
MEMORY_COLUMNS = {"Rss": "resident_mb", "Pss": "pss_mb", "Pss_Anon": "anonymous_mb", "Pss_File": "file_mb"}


def read_process(process: psutil.Process) -> dict[str, float]:
    """Read the megabytes of memory, and the numbers of open files, maps and threads, of a process."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines[1:])}
    memory = {column: round(kilobytes[name] * 1024 / 1e6, 2) for name, column in MEMORY_COLUMNS.items()}
    maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8").count("\n")
    return {**memory, "files": process.num_fds(), "maps": maps, "threads": process.num_threads()}


def send_requests(client: httpx.Client, name: str, vectors: np.ndarray) -> None:
    """Search in bytes and in JSON, with and without a filter."""
    path = f"/v1/indexes/{name}/search"
    for number in range(REQUESTS_PER_SWAP):
        body = vectors[number * 4 : number * 4 + 4].astype("<f4").tobytes()
        query = {"texts": [f"topic {number}"], **({"label": f"l{number}"} if number % 2 else {})}
        client.post(path, content=body, headers={"Content-Type": "application/octet-stream"}).raise_for_status()
        client.post(path, json=query).raise_for_status()


def wait_until_served(client: httpx.Client, name: str, snapshot_id: str) -> None:
    """Return once the service answers from this snapshot."""
    end = time.monotonic() + 120
    while client.get(f"/v1/indexes/{name}").json()["snapshot_id"] != snapshot_id:
        assert time.monotonic() < end, f"{snapshot_id} is not served"
        time.sleep(0.05)


def measure_swaps(root: Path, swaps: int, name: str = NAME) -> list[dict[str, float]]:
    """Publish `swaps` snapshots, one after another; returns what the process used after each."""
    vectors = make_clustered_vectors(REQUESTS_PER_SWAP * 4, seed=7)
    rows = []
    with run_indexmill_service(root, name) as (port, process), httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        send_requests(client, name, vectors)
        for swap in range(1, swaps + 1):
            wait_until_served(client, name, publish_again(root, name, keep=1))
            send_requests(client, name, vectors)
            rows.append({"swap": swap, **read_process(process)})
            if swap == 1 or swap % 10 == 0:
                print("  ".join(f"{name} {value:g}" for name, value in rows[-1].items()), flush=True)
    return rows


def fit_slopes(rows: list[dict[str, float]]) -> dict[str, float]:
    """Fit a line to each column after the warm-up; returns its slope per swap."""
    rows = rows[WARM_UP_SWAPS:] if len(rows) >= 2 * WARM_UP_SWAPS else rows
    return {name: float(np.polyfit([row["swap"] for row in rows], [row[name] for row in rows], 1)[0]) for name in rows[0] if name != "swap"}


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw the memory of the process over the swaps."""
    from benchmarks.plotting import draw_lines, split_panels

    rows = results["swaps"]
    swaps = [row["swap"] for row in rows]
    titles = {"resident": "resident_mb", "anonymous": "anonymous_mb", "mapped files": "file_mb"}
    (axes,) = split_panels(figure, 1, height=3.6)
    axes.set_ylim(0, 1.1 * max(row["resident_mb"] for row in rows))
    series = {title: (swaps, [row[name] for row in rows]) for title, name in titles.items()}
    draw_lines(axes, series, xlabel="swaps", ylabel="memory of the service, MB", marker="")
    axes.set_title(f"Anonymous memory grows by {results['slopes']['anonymous_mb']:+.2f} MB per swap")


def main() -> None:
    """Make the root unless one is given, swap, and print the slopes."""
    parser = make_parser(__doc__)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    report = Report(options)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_swaps(options.root or make_root(Path(folder), options.items, "auto"), options.swaps)
    slopes = fit_slopes(rows)
    print("per swap: " + ", ".join(f"{name} {slope:+.3f}" for name, slope in slopes.items()))
    report.finish({"swaps": rows, "slopes": slopes}, plot)


if __name__ == "__main__":
    main()
