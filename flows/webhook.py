"""Send one POST to INDEXMILL_WEBHOOK when a build fails, crashes or is cancelled."""

from __future__ import annotations

import os
from typing import Any

import httpx
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from indexmill.storage.errors import IndexmillError, PublishRefused

WEBHOOK_VARIABLE = "INDEXMILL_WEBHOOK"
TIMEOUT_SECONDS = 10


def send_webhook(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Report a flow run that failed, crashed or was cancelled. Without INDEXMILL_WEBHOOK nothing is sent.

    The body is JSON with `flow`, `run`, `pipeline`, `state`, `refused`, `what`, `got` and `next`. For errors that are
    not Indexmill's own only the class is sent, because their text may contain secrets. After three failed attempts a
    warning goes to Prefect's log, without the address: whoever knows it can post to it.
    """
    url = os.environ.get(WEBHOOK_VARIABLE)
    if not url:
        return
    try:
        _post(url, build_payload(flow.name, flow_run, state))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        status = f", status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
        warning_text = f"could not deliver to the webhook in {WEBHOOK_VARIABLE}: {type(error).__name__}{status}"
        flow_run_logger(flow_run, flow).warning(warning_text)


def build_payload(flow: str, run: FlowRun, state: State[Any]) -> dict[str, Any]:
    """Build the body of the POST."""
    error = _get_error(state)
    payload = {
        "flow": flow,
        "run": run.name,
        "pipeline": run.parameters.get("config"),
        "state": state.name,
        "refused": isinstance(error, PublishRefused),
    }
    if isinstance(error, IndexmillError):
        return payload | {"what": error.what, "got": error.got, "next": error.next_step}
    return payload | {"what": type(error).__name__ if error else state.name, "got": "", "next": "see the run in Prefect"}


def _get_error(state: State[Any]) -> BaseException | None:
    try:
        result = state.result(raise_on_failure=False)
    except Exception:  # a crashed run has no result
        return None
    return result if isinstance(result, BaseException) else None


@retry(
    stop=stop_after_attempt(3), wait=wait_exponential(multiplier=0.5, max=5), retry=retry_if_exception_type(httpx.HTTPError), reraise=True
)
def _post(url: str, body: dict[str, Any]) -> None:
    httpx.post(url, json=body, timeout=TIMEOUT_SECONDS).raise_for_status()
