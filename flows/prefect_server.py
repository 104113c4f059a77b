"""Which Prefect server runs report to; check it before a run needs it, and explain its failures during one."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import prefect
from prefect.settings import get_current_settings

from indexmill.storage.errors import IndexmillError, SourceUnreachable

ATTEMPTS, WAIT_S, TIMEOUT_S = 4, 2.0, 5.0  # a server that restarts answers again after some seconds
NEXT_STEP = "start it (make server), correct PREFECT_API_URL, or unset it to run with a temporary server"


def get_configured_url() -> str:
    """Return the URL of the Prefect server that runs in this process report to; empty before a run starts its own."""
    return get_current_settings().api.url or ""


def check_server(url: str) -> None:
    """Raise an IndexmillError unless a Prefect server of this major version answers at `url`.

    Args:
        url: The value of PREFECT_API_URL.

    Raises:
        SourceUnreachable: Nothing answers, also after some seconds.
        IndexmillError: Something else answers, or the server refuses the credentials.
    """
    try:
        health, version = (_fetch(url, path) for path in ("health", "admin/version"))
    except httpx.InvalidURL as error:
        raise _build_error("PREFECT_API_URL is not a URL", url, str(error)) from None
    except httpx.HTTPError as error:
        raise SourceUnreachable(
            "Prefect's server does not answer",
            where=f"PREFECT_API_URL = {_hide_password(url)}",
            got=f"{type(error).__name__}: {str(error) or 'no answer'} ({ATTEMPTS} attempts)",
            next_step=f"{NEXT_STEP}; if it is restarting, try again",
        ) from None
    if health.status_code in (401, 403):
        got = f"HTTP {health.status_code} {health.reason_phrase}"
        raise _build_error("Prefect's server refuses the credentials", url, got, "renew PREFECT_API_KEY or PREFECT_API_AUTH_STRING")
    if health.status_code != httpx.codes.OK or health.text.strip() != "true" or not version.is_success:
        got = f"HTTP {health.status_code} from {health.url.path}"
        raise _build_error("there is no Prefect API at this address", url, got, f"{NEXT_STEP}; it ends with /api")
    server_version = version.text.strip().strip('"')
    if server_version.split(".")[0] != prefect.__version__.split(".")[0]:
        got = f"version {server_version}, and this is {prefect.__version__}"
        raise _build_error("Prefect's server has another major version", url, got, "install the same version on both sides")


@contextmanager
def explain_server_failures(url: str) -> Iterator[None]:
    """Turn errors about the Prefect server into an IndexmillError that says what to do."""
    try:
        yield
    except (RuntimeError, httpx.HTTPError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith(("Failed to reach API", "Found incompatible versions")):
            raise
        raise SourceUnreachable(
            "Prefect's server stopped answering during the run",
            where=f"PREFECT_API_URL = {_hide_password(url)}" if url else "the temporary server",
            got=" ".join(str(error).split())[:300] or type(error).__name__,
            next_step="run it again: finished stages are kept" + (f"; or {NEXT_STEP}" if url else ""),
        ) from None


def _fetch(url: str, path: str) -> httpx.Response:
    settings = get_current_settings().api
    headers = {}
    if settings.key:
        headers["Authorization"] = f"Bearer {settings.key.get_secret_value()}"
    elif settings.auth_string:
        headers["Authorization"] = "Basic " + base64.b64encode(settings.auth_string.get_secret_value().encode()).decode()
    for attempt in range(ATTEMPTS):
        try:
            response = httpx.get(
                f"{url.rstrip('/')}/{path}", headers=headers, timeout=TIMEOUT_S, verify=not settings.tls_insecure_skip_verify
            )
            if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR or attempt + 1 == ATTEMPTS:
                return response
        except httpx.UnsupportedProtocol as error:
            raise httpx.InvalidURL(str(error)) from None
        except httpx.TransportError:
            if attempt + 1 == ATTEMPTS:
                raise
        time.sleep(WAIT_S)
    raise AssertionError("the last attempt returns or raises")


def _build_error(what: str, url: str, got: str, next_step: str = NEXT_STEP) -> IndexmillError:
    return IndexmillError(what, where=f"PREFECT_API_URL = {_hide_password(url)}", got=got, next_step=next_step)


def _hide_password(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return url
    return str(parsed.copy_with(userinfo=b"")) if parsed.userinfo else url
