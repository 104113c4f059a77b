"""Text queries of our service and of txtai's, over the same items with the same model, in turn.

txtai is installed in a folder of its own: pip install --target FOLDER "txtai[api]"
Run: python -m benchmarks.serve_peer --peer FOLDER [--root ROOT] [--name demo-text] [--items 2000] [--seconds 3]
ROOT holds a published index of texts encoded with the demo's MiniLM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from benchmarks.report import Report, make_parser
from benchmarks.serve import CLIENTS, load_and_print, run_indexmill_service, run_service
from benchmarks.serve_load import make_text_request
from indexmill.serve import open_index
from indexmill.tasks.encoding.model_files import find_model_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDEXING = """
import json, sys
from txtai import Embeddings
items, model, folder = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3]
embeddings = Embeddings(path=model)
embeddings.index([(key, text, None) for key, text in items])
embeddings.save(folder)
"""
QUERIES = [f"{verb} {noun} {number}" for number in range(20) for verb in ("parse", "open", "sort", "send") for noun in ("a date", "a file")]


def make_peer(folder: Path, peer: str, root: Path, name: str, count: int) -> Path:
    """Index our first items with txtai; returns the config file of its service."""
    index = open_index(root, name)
    rows = index.items.get_rows(index.items.filter_ids({"side": ["database"]})[:count].tolist())
    (folder / "items.json").write_text(json.dumps([(row["key"], row["text"]) for row in rows if row]))
    model = str(find_model_path(index.manifest.config["encoder"]["model"]))
    command = [sys.executable, "-c", INDEXING, str(folder / "items.json"), model, str(folder / "index")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": peer}, cwd=folder)
    config = folder / "service.yml"
    config.write_text(f"path: {folder / 'index'}\nembeddings: {{path: {model}}}\n")
    return config


def make_peer_request(query: str) -> bytes:
    """Make a search for txtai's service, which returns keys and scores only."""
    return f"GET /search?query={quote(query)}&limit=10 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def plot(results: dict[str, Any], figure: Figure) -> None:
    """Draw requests per second and the median latency of both services over the clients."""
    from benchmarks.plotting import OTHERS, OURS, draw_lines, split_panels

    for axes, column, ylabel in zip(
        split_panels(figure, 2, height=3.6), ("rate", "p50"), ("text queries per second", "median, milliseconds"), strict=True
    ):
        axes.set(xscale="log")
        series = {name: ([row["clients"] for row in rows], [row[column] for row in rows]) for name, rows in results["services"].items()}
        axes.set_ylim(0, 1.1 * max(max(ys) for _, ys in series.values()))
        draw_lines(axes, series, xlabel="clients", ylabel=ylabel, colors=(OURS, OTHERS))
        axes.set_xticks(CLIENTS, [str(count) for count in CLIENTS])
        axes.minorticks_off()


def main() -> None:
    """Run both services and load each in turn."""
    parser = make_parser(__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--root", type=Path, default=Path("indexmill-data"))
    parser.add_argument("--name", default="demo-text")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    report = Report(options)
    our_requests = [make_text_request(options.name, query) for query in QUERIES]
    peer_requests = [make_peer_request(query) for query in QUERIES]
    command = [sys.executable, "-P", "-m", "uvicorn", "txtai.api:app", "--log-level", "warning", "--port"]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        config = make_peer(Path(folder), options.peer, options.root, options.name, options.items)
        peer_service = run_service(command, "/count", PYTHONPATH=options.peer, CONFIG=str(config))
        with run_indexmill_service(options.root, options.name) as (port, process), peer_service as (peer_port, peer_process):
            for clients in (1, *CLIENTS):  # the first round warms both
                ours.append(load_and_print(f"indexmill, {clients:2} clients", port, process, clients, options.seconds, our_requests))
                theirs.append(
                    load_and_print(f"txtai,     {clients:2} clients", peer_port, peer_process, clients, options.seconds, peer_requests)
                )
    report.finish({"services": {"Indexmill": ours[1:], "txtai": theirs[1:]}}, plot)


if __name__ == "__main__":
    main()
