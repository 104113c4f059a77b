"""An Azure Blob Storage server on 127.0.0.1: Azurite, Microsoft's own emulator, where it is installed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import httpx
import pytest

from tests.flows.postgres import find_free_port

VERSION = "azurite@3.37.0"
ACCOUNT, CONTAINER = "indexmill", "tests"
KEY = base64.b64encode(b"a key of tests that no file may hold, of whatever length it has.").decode()


def find_azurite() -> str | None:
    """Return the path of the program: `npm install --prefix .venv/azurite azurite@…` puts it there (.ci/run does)."""
    installed = Path(sys.executable).parents[1] / "azurite" / "node_modules" / ".bin"
    return shutil.which("azurite-blob") or shutil.which("azurite-blob", path=str(installed))


class AzureServer:
    """One Azurite process with an empty container, in memory."""

    def __init__(self, folder: Path) -> None:
        program, self.port = find_azurite(), find_free_port()
        assert program
        self.url = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        command = [program, "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence", "--blobHost", "127.0.0.1"]
        with (folder / "azurite.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--blobPort", str(self.port)],
                env={"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}", "PATH": "/usr/local/bin:/usr/bin:/bin"},
                cwd=folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 300
        while not self._create_container():
            assert time.monotonic() < deadline and self._process.poll() is None, (folder / "azurite.log").read_text()
            time.sleep(0.2)

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()

    def environment(self, key: str = KEY) -> dict[str, str]:
        """The environment variables of a client."""
        return {"AZURE_STORAGE_ENDPOINT": self.url, "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": key}

    def _create_container(self) -> bool:
        """Send the one request that obstore has no call for, signed as Azure's documentation says ("Shared Key")."""
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        canonical = "".join(f"{name}:{value}\n" for name, value in headers.items())
        text = "PUT" + "\n" * 12 + f"{canonical}/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        try:
            return httpx.put(f"{self.url}/{CONTAINER}?restype=container", headers=headers, timeout=30).status_code in (201, 409)
        except httpx.HTTPError:
            return False


needs_azurite = pytest.mark.skipif(not find_azurite(), reason=f"needs Azurite: npm install --prefix .venv/azurite {VERSION}")
