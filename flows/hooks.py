"""What is told to the outside when a build ends badly: one POST to INDEXMILL_WEBHOOK."""

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
SECONDS = 10


def tell(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook for a flow run that failed, crashed or was cancelled. Without the variable nothing is sent.

    The body is JSON: `flow`, `run`, `pipeline`, `state`, `refused`, `what`, `got`, `next`. Of an error that is not Indexmill's own only the
    kind is told, since its text may hold anything. What cannot be delivered in three tries is left to Prefect's log, without the address:
    who has that may send there.
    """
    url = os.environ.get(WEBHOOK_VARIABLE)
    if not url:
        return
    try:
        _post(url, message(flow.name, flow_run, state))
    except (httpx.HTTPError, httpx.InvalidURL) as problem:
        status = f", status {problem.response.status_code}" if isinstance(problem, httpx.HTTPStatusError) else ""
        untold = f"the webhook in {WEBHOOK_VARIABLE} could not be told: {type(problem).__name__}{status}"
        flow_run_logger(flow_run, flow).warning(untold)


def message(flow: str, run: FlowRun, state: State[Any]) -> dict[str, Any]:
    """What is sent."""
    problem = _problem(state)
    own = isinstance(problem, IndexmillError)
    return {
        "flow": flow, "run": run.name, "pipeline": run.parameters.get("config"), "state": state.name,
        "refused": isinstance(problem, PublishRefused),
        "what": problem.what if own else type(problem).__name__ if problem else state.name,
        "got": problem.got if own else "", "next": problem.next_step if own else "see the run in Prefect",
    }  # fmt: skip


def _problem(state: State[Any]) -> Any:
    try:
        found = state.result(raise_on_failure=False)
    except Exception:  # a crashed run has no result to read
        return None
    return found if isinstance(found, BaseException) else None


@retry(
    stop=stop_after_attempt(3), wait=wait_exponential(multiplier=0.5, max=5), retry=retry_if_exception_type(httpx.HTTPError), reraise=True
)
def _post(url: str, body: dict[str, Any]) -> None:
    httpx.post(url, json=body, timeout=SECONDS).raise_for_status()
