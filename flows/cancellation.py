"""End a flow run cleanly as Cancelled on SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled

from indexmill.storage import stopping
from indexmill.storage.stopping import Stopped

P = ParamSpec("P")
R = TypeVar("R")


def cancel_on_signal(body: Callable[P, R]) -> Callable[P, R]:
    """Decorate a flow's function (below @flow) so that SIGTERM and SIGINT stop it at the next commit.

    The run's state becomes Cancelled, and the caller of the flow gets a Stopped error.
    """

    @wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _handle_signals():
                return body(*args, **kwargs)
        except Stopped as error:
            state: State[Any] = Cancelled(message=str(error), data=error)
            _run_cancellation_hooks(state)
            return cast(R, state)  # Prefect takes a returned state as the run's state, and raises its error

    return run


@contextmanager
def _handle_signals() -> Iterator[None]:
    """Handle SIGTERM and SIGINT instead of Prefect, which would end the run as Crashed at once.

    Only the main thread can set signal handlers; in other threads this does nothing.

    Prefect installs its handlers when the run starts, so this must be called inside the flow. Signals that the
    process ignores from the start (as a shell's background job does) stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopping.clear_stop_request()
    handled_signals = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]
    previous_handlers = {number: signal.signal(number, _handle_signal) for number in handled_signals}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
        stopping.clear_stop_request()


def _handle_signal(number: int, frame: object) -> None:  # noqa: ARG001 (a handler's signature)
    """Request a stop at the first signal; stop at once at the second, or while the build only waits for other work."""
    name = signal.Signals(number).name
    if stopping.can_stop_immediately():
        raise stopping.build_stopped_error(signal.Signals(number), "at once")
    stopping.request_stop(number)
    os.write(2, f"{name}: stopping after the current file; send it again to stop at once\n".encode())


def _run_cancellation_hooks(state: State[Any]) -> None:
    """Call the flow's hooks for cancelled runs, unless a worker cancelled this one: a worker calls them itself."""
    context = FlowRunContext.get()
    if context is None or context.flow is None or context.flow_run is None:
        return
    with get_client(sync_client=True) as client:
        current_state = client.read_flow_run(context.flow_run.id).state
    if current_state is None or not current_state.is_cancelling():
        for hook in context.flow.on_cancellation_hooks:
            hook(context.flow, context.flow_run, state)
