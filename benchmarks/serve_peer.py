"""Text queries of the service beside txtai's over the same items with the same model, in turn.

txtai lies in a folder of its own: pip install --target FOLDER "txtai[api]"
Run: python -m benchmarks.serve_peer --peer FOLDER [--root ROOT] [--name demo-text] [--items 2000] [--seconds 3]
where ROOT holds a published index of texts by the MiniLM of the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from benchmarks.serve import CLIENTS, running, served, told
from benchmarks.serve_load import text
from indexmill.serve import open_index
from indexmill.tasks.encoding.model_files import find_model_path

INDEXING = """
import json, sys
from txtai import Embeddings
items, model, folder = json.load(open(sys.argv[1])), sys.argv[2], sys.argv[3]
made = Embeddings(path=model)
made.index([(key, text, None) for key, text in items])
made.save(folder)
"""
QUERIES = [f"{verb} {what} {number}" for number in range(20) for verb in ("parse", "open", "sort", "send") for what in ("a date", "a file")]


def make_peer(folder: Path, peer: str, root: Path, name: str, count: int) -> Path:
    """txtai's index of the first items of ours, and the file that its service is configured by."""
    index = open_index(root, name)
    rows = index.items.get_rows(index.items.filter_ids({"side": ["database"]})[:count].tolist())
    (folder / "items.json").write_text(json.dumps([(row["key"], row["text"]) for row in rows if row]))
    model = str(find_model_path(index.manifest.config["encoder"]["model"]))
    command = [sys.executable, "-c", INDEXING, str(folder / "items.json"), model, str(folder / "index")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": peer}, cwd=folder)
    config = folder / "service.yml"
    config.write_text(f"path: {folder / 'index'}\nembeddings: {{path: {model}}}\n")
    return config


def asked(query: str) -> bytes:
    """A search as txtai's service takes it; it answers with keys and scores alone."""
    return f"GET /search?query={quote(query)}&limit=10 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def main() -> None:
    """Both services at once, each loaded in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--root", type=Path, default=Path("indexmill-data"))
    parser.add_argument("--name", default="demo-text")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=3)
    chosen = parser.parse_args()
    ours = [text(chosen.name, query) for query in QUERIES]
    theirs = [asked(query) for query in QUERIES]
    command = [sys.executable, "-P", "-m", "uvicorn", "txtai.api:app", "--log-level", "warning", "--port"]
    with tempfile.TemporaryDirectory() as folder:
        config = make_peer(Path(folder), chosen.peer, chosen.root, chosen.name, chosen.items)
        other = running(command, "/count", PYTHONPATH=chosen.peer, CONFIG=str(config))
        with served(chosen.root, chosen.name) as (port, process), other as (their_port, their_process):
            for clients in (1, *CLIENTS):  # the first round warms both
                told(f"indexmill, {clients:2} clients", port, process, clients, chosen.seconds, ours)
                told(f"txtai,     {clients:2} clients", their_port, their_process, clients, chosen.seconds, theirs)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
