"""Run the service: address, token and one uvicorn process."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import uvicorn

from indexmill.serve.http.app import LOOPBACK_HOSTS, create_app
from indexmill.storage.errors import InputError

TOKEN_VARIABLE = "INDEXMILL_TOKEN"  # noqa: S105  # a name, and no token
MIN_TOKEN_LENGTH = 16
SWITCH_INTERVAL = 0.0005  # seconds: the thread that searches gives way to the one that answers sooner than Python's 0.005


def run_server(root: str, names: Sequence[str], host: str, port: int) -> None:
    """Serve until stopped by SIGINT or SIGTERM, which let requests under way end.

    Raises InputError for an address other than this machine's own without a token in INDEXMILL_TOKEN.
    """
    if find_spec("python_multipart") is None:
        raise InputError(
            "the service needs libraries that are not installed", next_step="pip install 'indexmill[serve]' -c constraints.txt"
        )
    token = resolve_token(host, os.environ.get(TOKEN_VARIABLE))
    app = create_app(root, names, token=token, allowed_hosts=frozenset() if token else LOOPBACK_HOSTS)
    sys.setswitchinterval(SWITCH_INTERVAL)
    log = logging.getLogger("indexmill.serve")
    log.addHandler(handler := logging.StreamHandler())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.setLevel(logging.INFO)
    log.info("http://%s:%s serves %s", host, port, ", ".join(names))
    uvicorn.run(
        app, host=host, port=port, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30,
        timeout_graceful_shutdown=30, ws="none", backlog=1024, proxy_headers=False,
    )  # fmt: skip


def resolve_token(host: str, token: str | None) -> str | None:
    """The token that requests must bear: the one that is set; none, where none is and only this machine can ask."""
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise InputError("the token is too short", where=TOKEN_VARIABLE, expected=f"{MIN_TOKEN_LENGTH} characters or more",
                         got=f"{len(token)}", next_step=f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32)")  # fmt: skip
    if token is None and not _is_loopback(host):
        raise InputError(
            "whoever reaches this address could ask, and no token is set",
            where=f"--host {host}",
            expected=f"127.0.0.1, or a token in {TOKEN_VARIABLE}",
            next_step=f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32), and send it as `Authorization: Bearer …`",
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
