"""Retry calls after transient errors: one policy for data providers, the model hub and stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from indexmill.storage.errors import IndexmillError, SourceUnreachable

# Request timeout, too many requests, and servers that are down or overloaded.
TRANSIENT_STATUS_CODES = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """How many attempts a call gets, and how long to wait between them.

    Attributes:
        attempts: Calls in all, including the first.
        first_wait_s: Seconds before the second attempt. Every further wait is twice as long.
        max_wait_s: Longest wait in seconds, even if a provider asks for more by Retry-After.
        timeout_s: Seconds that a connection may stay silent.
        jitter: How far waits vary at random, as a fraction of the first wait (of every wait where Prefect retries).
    """

    attempts: int = 4
    first_wait_s: float = 1.0
    max_wait_s: float = 60.0
    timeout_s: float = 30.0
    jitter: float = 0.5

    @property
    def waits_s(self) -> tuple[float, ...]:
        """The waits between the attempts in seconds, without jitter."""
        return tuple(min(self.first_wait_s * 2**count, self.max_wait_s) for count in range(self.attempts - 1))


def with_retries(
    call: Callable[[], T],
    retry_policy: RetryPolicy,
    *,
    where: str,
    transient_errors: tuple[type[Exception], ...],
    service: str = "the data set's provider",
) -> T:
    """Return what `call` returns, and call it again after transient errors.

    Args:
        call: The call, without arguments.
        retry_policy: Number of attempts and waits.
        where: The config key or address for the error.
        transient_errors: Error types that count as transient besides ConnectionError and TimeoutError.
        service: The provider's name for the error.

    Raises:
        SourceUnreachable: The last attempt failed with a transient error.
        Exception: Any other error of `call`, at once.
    """
    retrying = Retrying(
        retry=retry_if_exception(lambda error: is_transient(error, transient_errors)),
        wait=lambda state: _compute_wait(state, retry_policy),
        stop=stop_after_attempt(retry_policy.attempts),
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:
        if not is_transient(error, transient_errors):
            raise
        raise SourceUnreachable(
            f"{service} cannot be reached",
            where=where,
            expected="a response",
            got=f"{type(error).__name__}: {error}".strip().splitlines()[0],
            next_step="check the network and the provider's status, then run the build again; finished downloads are kept",
        ) from error


def is_transient(error: BaseException, transient_errors: tuple[type[Exception], ...]) -> bool:
    """Return whether the error or one of its causes may go away on another attempt."""
    if isinstance(error, IndexmillError):
        return False
    return any(
        isinstance(cause, (ConnectionError, TimeoutError, *transient_errors)) or get_http_status(cause) in TRANSIENT_STATUS_CODES
        for cause in _iterate_causes(error)
    )


def get_http_status(error: BaseException) -> int | None:
    """Return the HTTP status of an error of requests or httpx, if it has one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _iterate_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _compute_wait(state: RetryCallState, retry_policy: RetryPolicy) -> float:
    """Return the seconds to wait: what Retry-After asks for, else exponential backoff with jitter."""
    error = state.outcome.exception() if state.outcome else None
    for cause in _iterate_causes(error):
        retry_after = str(getattr(getattr(cause, "response", None), "headers", {}).get("retry-after", ""))
        if retry_after.isdigit():
            return min(float(retry_after), retry_policy.max_wait_s)
    jitter_s = retry_policy.jitter * retry_policy.first_wait_s
    return wait_exponential_jitter(multiplier=retry_policy.first_wait_s, max=retry_policy.max_wait_s, jitter=jitter_s)(state)
