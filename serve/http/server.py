"""Run the service: address, token and one uvicorn process."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import uvicorn

from indexmill.serve.http.allocator import return_freed_memory
from indexmill.serve.http.app import LOOPBACK_HOSTS, create_app
from indexmill.storage.errors import InputError

TOKEN_VARIABLE = "INDEXMILL_TOKEN"  # noqa: S105  # the name of the variable, not a token
MIN_TOKEN_LENGTH = 16
MAKE_TOKEN = f"export {TOKEN_VARIABLE}=$(openssl rand -hex 32)"
SWITCH_INTERVAL = 0.0005  # seconds; at Python's default of 0.005 a searching thread delays the event loop noticeably


def run_server(root: str, names: Sequence[str], host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first.

    Raises:
        InputError: A library is missing, or the address is reachable from other machines and INDEXMILL_TOKEN is not
            set.
    """
    if find_spec("python_multipart") is None:
        raise InputError("the libraries of the service are not installed", next_step="pip install 'indexmill[serve]' -c constraints.txt")
    return_freed_memory()
    token = resolve_token(host, os.environ.get(TOKEN_VARIABLE))
    app = create_app(root, names, token=token, allowed_hosts=frozenset() if token else LOOPBACK_HOSTS)
    sys.setswitchinterval(SWITCH_INTERVAL)
    log = logging.getLogger("indexmill.serve")
    log.addHandler(handler := logging.StreamHandler())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.setLevel(logging.INFO)
    log.info("serving %s at http://%s:%s", ", ".join(names), host, port)
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=30,
        ws="none",
        backlog=1024,
        proxy_headers=False,
    )


def resolve_token(host: str, token: str | None) -> str | None:
    """Return the token that requests must carry, or None if none is set and only this machine can connect.

    Raises:
        InputError: The token is too short, or missing for an address that other machines can reach.
    """
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise InputError(
            "the token is too short",
            where=TOKEN_VARIABLE,
            expected=f"{MIN_TOKEN_LENGTH} characters or more",
            got=f"{len(token)} characters",
            next_step=MAKE_TOKEN,
        )
    if token is None and not _is_loopback(host):
        raise InputError(
            "a token is required: other machines can reach this address",
            where=f"--host {host}",
            expected=f"127.0.0.1, or a token in {TOKEN_VARIABLE}",
            next_step=f"{MAKE_TOKEN}, and send it with each request as `Authorization: Bearer TOKEN`",
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
