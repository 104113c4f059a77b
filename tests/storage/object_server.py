"""An S3 server on 127.0.0.1: SeaweedFS, a real one with conditional writes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

SECRET = "a-secret-that-no-file-may-hold"
READER_SECRET = "a-reader-secret-that-no-file-may-hold"


class ObjectServer:
    """One `weed server` process with its data in `folder`. `stop` kills it; `start` continues with the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._ports = [_find_port() for _ in range(3)]
        self._process: subprocess.Popen[bytes] | None = None
        writer = {"name": "writer", "credentials": [{"accessKey": "writer", "secretKey": SECRET}]}
        reader = {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": READER_SECRET}], "actions": ["Read", "List"]}
        writer["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "s3.json").write_text(json.dumps({"identities": [writer, reader]}))

    def start(self) -> None:
        """Start the server and wait until it stores an object."""
        master, volume, filer = self._ports
        options = f"-dir={self.folder} -master.port={master} -volume.port={volume} -filer.port={filer} -s3.port={self.port}"
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("weed")),
                *["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64", "-volume.max=40"],
                "-master.telemetry=false",
                *options.split(),
                *f"-filer -s3 -s3.config={self.folder / 's3.json'} -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0".split(),
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "server.log").open("ab"),
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(self.url, timeout=5).status_code < 500 and self._can_write():
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        pytest.fail("the object server did not start: " + (self.folder / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        """Kill the server."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def environment(self, *, reader: bool = False) -> dict[str, str]:
        """The environment variables of a client."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "reader" if reader else "writer",
            "AWS_SECRET_ACCESS_KEY": READER_SECRET if reader else SECRET,
        }

    def _can_write(self) -> bool:
        from indexmill.storage.errors import IndexmillError
        from indexmill.storage.object_client import ObjectClient

        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            try:
                ObjectClient("s3://tests/start", patience_seconds=2).put("ready", b"1")
            except IndexmillError:
                return False
        return True


def _find_port() -> int:
    """A free port whose gRPC port, 10,000 above, is valid as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port
