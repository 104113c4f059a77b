"""A PostgreSQL server of the tests' own, from Debian's package."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "a secret of the tests"


def program(name: str) -> str | None:
    """Where a program of PostgreSQL lies: Debian keeps them off the PATH."""
    return shutil.which(name) or next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """Start an empty server on 127.0.0.1; yields the URL of its database for SQLAlchemy with asyncpg. It will not run as root."""
    initdb, serve = program("initdb"), program("postgres")
    assert initdb and serve
    owner = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    folder, port = Path(tempfile.mkdtemp(prefix="indexmill-postgres-")), free_port()
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (folder, secret):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    user = {"user": owner.pw_uid, "group": owner.pw_gid} if os.geteuid() == 0 else {}
    made = [
        initdb,
        "-D",
        str(folder / "data"),
        "-U",
        "indexmill",
        "--auth=scram-sha-256",
        f"--pwfile={secret}",
        "--no-sync",
        "--locale=C.UTF-8",
    ]
    subprocess.run(made, check=True, capture_output=True, timeout=120, cwd=folder, **user)  # type: ignore[call-overload]
    settings = ("fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", f"port={port}")
    with (folder / "log").open("wb") as log:
        command = [serve, "-D", str(folder / "data"), *(part for setting in settings for part in ("-c", setting))]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user)  # type: ignore[call-overload]
        try:
            end = time.monotonic() + 60
            while not answers(port):
                assert time.monotonic() < end and server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield f"postgresql+asyncpg://indexmill:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(60)
            shutil.rmtree(folder)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
