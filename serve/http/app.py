"""Create the FastAPI app of the service."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from indexmill.serve.http import problems, static
from indexmill.serve.http.limits import Limits
from indexmill.serve.http.live import LiveIndex
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.http.middleware import GuardMiddleware
from indexmill.serve.http.raw_vectors import RawVectorMiddleware
from indexmill.serve.http.routes import build_api_router
from indexmill.serve.http.service import Service
from indexmill.storage.root import Root

LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def create_app(
    root: str | Path,
    names: Sequence[str],
    *,
    limits: Limits | None = None,
    token: str | None = None,
    poll_seconds: float = 1,
    allowed_hosts: frozenset[str] = LOOPBACK_HOSTS,
) -> Any:
    """Create an ASGI app that serves the live snapshots of some indexes.

    Args:
        root: The root directory that builds write to.
        names: The indexes. One without a snapshot is served as soon as it is published.
        limits: Limits of the service; the defaults if None.
        token: The bearer token that requests must carry; none is needed if None.
        poll_seconds: How often to check for a new live snapshot.
        allowed_hosts: Accepted values of the Host header; any if empty.

    Raises:
        InputError: There is no such root, or a name cannot be an index name.
    """
    limits, metrics = limits or Limits(), Metrics()
    indexes = {name: LiveIndex(Root(root, create=False), name, metrics, poll_seconds=poll_seconds) for name in dict.fromkeys(names)}
    service = Service(indexes, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watch_tasks = [asyncio.create_task(live.watch()) for live in indexes.values()]
        yield
        for task in watch_tasks:
            task.cancel()
        await asyncio.gather(*watch_tasks, return_exceptions=True)
        service.close()
        gc.unfreeze()  # undoes gc.freeze() in LiveIndex

    app = FastAPI(
        title="Indexmill",
        version=version("indexmill"),
        description="Nearest-neighbor search in published snapshots.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    problems.install_error_handlers(app)
    app.include_router(build_api_router(service))
    app.include_router(static.build_page_router())
    app.state.service = service
    return GuardMiddleware(RawVectorMiddleware(app, service), limits, metrics, token, allowed_hosts)
