"""Share a GPU between pipelines through a global concurrency limit on the Prefect server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.settings import get_current_settings

from indexmill.storage.errors import InputError
from indexmill.storage.stopping import allow_immediate_stop
from indexmill.tasks.encoding.device import has_gpu
from indexmill.tasks.progress import track

GPU_LIMIT = "gpu"
LIMIT_VARIABLE = "INDEXMILL_DEVICE_LIMIT"  # a worker's own limit, if several machines have a GPU each; empty: no limit
SLOT_LEASE_SECONDS = 60.0  # a slot is renewed while its holder lives, and is free again this long after it died


@contextmanager
def acquire_gpu_slot() -> Iterator[bool]:
    """Wait for a slot of the global concurrency limit `gpu`, and hold it inside the block.

    Does nothing without a GPU and INDEXMILL_DEVICE_LIMIT, or with that variable empty, as it is beside an embedded server: only
    one build uses that.

    Yields:
        Whether a slot is held.

    Raises:
        InputError: The server has no such limit. Going on without it could run two models on one GPU.
    """
    name = os.environ.get(LIMIT_VARIABLE, GPU_LIMIT if has_gpu() else "")
    if not name or not get_current_settings().api.url:
        yield False
        return
    with ExitStack() as stack:
        with track(f"waiting for {name}", 1) as advance, allow_immediate_stop(f"waiting for {name}"):
            try:
                stack.enter_context(concurrency(name, occupy=1, strict=True, lease_duration=SLOT_LEASE_SECONDS))
            except ConcurrencySlotAcquisitionError as error:
                raise InputError(
                    "cannot acquire a GPU slot",
                    where=f"global concurrency limit {name!r} on {get_current_settings().api.url}",
                    expected="an active limit with this name",
                    got=str(error),
                    next_step=f"make deploy (creates `{GPU_LIMIT}`), or prefect gcl create {name} --limit 1, or unset {LIMIT_VARIABLE}",
                ) from None
            advance(1)
        yield True
