"""The service as a FastAPI app: what it answers under which path."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from indexmill.serve import problems, site
from indexmill.serve.guarding import Guard
from indexmill.serve.limits import Limits
from indexmill.serve.live import LiveIndex
from indexmill.serve.metrics import Metrics
from indexmill.serve.quick import Quick
from indexmill.serve.routes import routes
from indexmill.serve.service import Service
from indexmill.storage.root import Root

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def create_app(
    root: str | Path, names: Sequence[str], *, limits: Limits | None = None, token: str | None = None, every: float = 1,
    hosts: frozenset[str] = LOOPBACK,
) -> Any:  # fmt: skip
    """An ASGI app that serves the indexes `names` of a root. every: seconds between two looks at what is live.

    token: the bearer token that is then needed. hosts: the names by which it may be asked, any if empty. Raises InputError for a name
    that cannot be an index's. Indexes without a snapshot are waited for.
    """
    limits, metrics = limits or Limits(), Metrics()
    indexes = {name: LiveIndex(Root(root, create=False), name, metrics, every=every) for name in dict.fromkeys(names)}
    service = Service(indexes, limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = [asyncio.create_task(live.follow()) for live in indexes.values()]
        yield
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        service.close()
        gc.unfreeze()  # what LiveIndex froze

    app = FastAPI(
        title="Indexmill", version=version("indexmill"), description="Nearest neighbours in published snapshots.",
        docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json", lifespan=lifespan, redirect_slashes=False,
    )  # fmt: skip
    problems.install(app)
    app.include_router(routes(service))
    app.include_router(site.pages())
    app.state.service = service
    return Guard(Quick(app, service), limits, metrics, token, hosts)
