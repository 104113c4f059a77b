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
    """Hook for a flow run that failed, crashed or was cancelled. Without the variable nothing is sent.

    The body is JSON: `flow`, `run`, `pipeline`, `state`, `refused`, `what`, `got`, `next`. Of an error that is not Indexmill's own only the
    kind is told, since its text may hold anything. What cannot be delivered in three tries is left to Prefect's log, without the address:
    who has that may send there.
    """
    url = os.environ.get(WEBHOOK_VARIABLE)
    if not url:
        return
    try:
        _post(url, build_payload(flow.name, flow_run, state))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        status = f", status {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
        warning_text = f"the webhook in {WEBHOOK_VARIABLE} could not be told: {type(error).__name__}{status}"
        flow_run_logger(flow_run, flow).warning(warning_text)


def build_payload(flow: str, run: FlowRun, state: State[Any]) -> dict[str, Any]:
    """What is sent."""
    error = _get_error(state)
    own = isinstance(error, IndexmillError)
    return {
        "flow": flow, "run": run.name, "pipeline": run.parameters.get("config"), "state": state.name,
        "refused": isinstance(error, PublishRefused),
        "what": error.what if own else type(error).__name__ if error else state.name,
        "got": error.got if own else "", "next": error.next_step if own else "see the run in Prefect",
    }  # fmt: skip


def _get_error(state: State[Any]) -> Any:
    try:
        found = state.result(raise_on_failure=False)
    except Exception:  # a crashed run has no result to read
        return None
    return found if isinstance(found, BaseException) else None


@retry(
    stop=stop_after_attempt(3), wait=wait_exponential(multiplier=0.5, max=5), retry=retry_if_exception_type(httpx.HTTPError), reraise=True
)
def _post(url: str, body: dict[str, Any]) -> None:
    httpx.post(url, json=body, timeout=TIMEOUT_SECONDS).raise_for_status()
