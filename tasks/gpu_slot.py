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
LIMIT_VARIABLE = "INDEXMILL_DEVICE_LIMIT"  # a worker's own limit, where several machines have a GPU each; empty: none
SLOT_LEASE_SECONDS = 60.0  # a slot whose holder died is free again after this; while it lives, it is renewed


@contextmanager
def acquire_gpu_slot() -> Iterator[bool]:
    """Wait for a slot of the global concurrency limit `gpu` and hold it while the block runs; yields whether there was one to wait for.

    Without a GPU (and without INDEXMILL_DEVICE_LIMIT) there is nothing to share, and on an embedded server nobody to share it with.
    Raises InputError where the server does not know the limit: nothing runs beside it by mistake.
    """
    name = os.environ.get(LIMIT_VARIABLE, GPU_LIMIT if has_gpu() else "")
    if not name or not get_current_settings().api.url:
        yield False
        return
    with ExitStack() as stack:
        with track(f"waiting for {name}", 1) as advance, allow_immediate_stop(f"a turn at {name}"):
            try:
                stack.enter_context(concurrency(name, occupy=1, strict=True, lease_duration=SLOT_LEASE_SECONDS))
            except ConcurrencySlotAcquisitionError as error:
                raise InputError(
                    "no slot of the device could be had",
                    where=f"global concurrency limit {name!r} on {get_current_settings().api.url}",
                    expected="a limit of that name",
                    got=str(error),
                    next_step=f"make deploy (creates `{GPU_LIMIT}`), or prefect gcl create {name} --limit 1, or unset {LIMIT_VARIABLE}",
                ) from None
            advance(1)
        yield True
