"""Explain answers that are none of the provider's: a wrong address, or a proxy or guest network that answers in its place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from indexmill.storage.errors import IndexmillError, InputError
from indexmill.tasks.retry import get_http_status, is_transient


@contextmanager
def explain_answers(*, where: str, address_setting: str, transient_errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a client library raises about an address or an answer that it cannot read into an InputError.

    Libraries raise nearly anything then: a JSON or URL error, or a missing key. Transient errors and HTTP statuses pass unchanged.

    Args:
        where: The config key and the address, for the error.
        address_setting: What sets the address.
        transient_errors: The library's error types that count as transient.
    """
    try:
        yield
    except IndexmillError:
        raise
    except Exception as error:
        if is_transient(error, transient_errors) or (get_http_status(error) or 0) >= 400 or (isinstance(error, OSError) and error.errno):
            raise
        raise InputError(
            "the data set's or model's provider gives no usable answer",
            where=where,
            expected="an answer of the provider's API",
            got=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            next_step=f"check the address ({address_setting}) and the network: a proxy or a guest network may answer instead",
        ) from None
