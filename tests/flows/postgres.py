"""Start a PostgreSQL server for the tests, from Debian's package or from another folder."""

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


def find_program(name: str, folder: Path | None = None) -> str | None:
    """Return the path of a PostgreSQL program; Debian keeps them off the PATH."""
    if folder is not None:
        return str(folder / name)
    return shutil.which(name) or next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))), None)


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def postgres(programs: Path | None = None) -> Iterator[str]:
    """Start an empty server on 127.0.0.1; yields the URL of its database for SQLAlchemy with asyncpg. It does not run as root.

    Args:
        programs: The folder of the server's programs; by default that of the PATH or of Debian's package.
    """
    initdb, serve = find_program("initdb", programs), find_program("postgres", programs)
    assert initdb and serve
    owner = pwd.getpwnam("postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    folder, port = Path(tempfile.mkdtemp(prefix="indexmill-postgres-")), find_free_port()
    password_file = folder / "password"
    password_file.write_text(PASSWORD)
    if os.geteuid() == 0:
        for path in (folder, password_file):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    user = {"user": owner.pw_uid, "group": owner.pw_gid} if os.geteuid() == 0 else {}
    command = [
        initdb,
        "-D",
        str(folder / "data"),
        "-U",
        "indexmill",
        "--auth=scram-sha-256",
        f"--pwfile={password_file}",
        "--no-sync",
        "--locale=C.UTF-8",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=600, cwd=folder, **user)  # type: ignore[call-overload]
    settings = ("fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", f"port={port}")
    command = [serve, "-D", str(folder / "data"), *(part for setting in settings for part in ("-c", setting))]
    with run_database_server(command, folder, port, **user):
        yield f"postgresql+asyncpg://indexmill:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/postgres"


@contextmanager
def run_database_server(command: list[str], folder: Path, port: int, **user: int) -> Iterator[None]:
    """Run a server until the block ends, from when it listens on its port, and remove its folder then. user: for `subprocess.Popen`."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **user)  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + 300
            while not is_listening(port):
                assert time.monotonic() < deadline and server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait(300)
            shutil.rmtree(folder)


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
