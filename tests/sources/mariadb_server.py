"""A MariaDB server of the tests' own on 127.0.0.1."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.flows.postgres import PASSWORD, find_free_port, run_database_server

USER = "indexmill"


def find_mariadb(name: str) -> str | None:
    """Return the path of a program of MariaDB; Debian keeps the server off the PATH of users."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def mariadb() -> Iterator[str]:
    """Start a server with an empty database; yields its URL with user and password, for SQLAlchemy. It does not run as root."""
    install, serve = find_mariadb("mariadb-install-db"), find_mariadb("mariadbd")
    assert install and serve
    folder, port = Path(tempfile.mkdtemp(prefix="indexmill-mariadb-")), find_free_port()
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    user = [f"--user={owner.pw_name}"] if os.geteuid() == 0 else []
    options = ["--no-defaults", f"--datadir={folder / 'data'}", *user]
    command = [install, *options, "--auth-root-authentication-method=normal", "--skip-test-db", f"--tmpdir={folder}"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    start = folder / "start.sql"
    start.write_text(  # one statement per line
        f"CREATE DATABASE shop;\nCREATE USER {USER}@localhost IDENTIFIED BY '{PASSWORD}';\n"
        f"GRANT ALL ON shop.* TO {USER}@localhost;\nGRANT PROCESS ON *.* TO {USER}@localhost;\n"
    )
    start.chmod(0o644)
    options += [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}", f"--init-file={start}"]
    with run_database_server([serve, *options, "--innodb-flush-log-at-trx-commit=0"], folder, port):  # it listens after the init file
        yield f"mariadb+pymysql://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/shop"
