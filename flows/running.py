"""Running a build from the command line: environment, embedded server, display, in that order."""

from __future__ import annotations

from typing import Any

from configs.loading import load_config
from flows.display import display, stderr_console
from flows.environment import prepare_environment
from storage.root import Root
from tasks.progress import track, watched_by


def run_build(config: str, root: str, settings: list[str], *, rehash: bool = False, verbose: bool = False) -> dict[str, Any]:
    """Run the flow `build-index` in this process and return its summary. Config and root are checked before Prefect is started."""
    load_config(config, settings)
    place = Root(root)
    prepare_environment(place.path, verbose=verbose)
    from flows.server import embedded_server  # Prefect reads its settings when it is imported: after prepare_environment

    with display(stderr_console()) as watcher, watched_by(watcher), embedded_server() as ready:
        with track("starting Prefect", 1) as advance:
            from flows.build_index import build_index

            ready()
            advance(1)
        return build_index(config, str(place.path), settings, rehash)
