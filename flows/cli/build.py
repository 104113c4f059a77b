"""Run the build, plan and study flows from the command line: environment, embedded server, progress display, in that order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from indexmill.configs.loading import load_config
from indexmill.flows.cli.progress import make_stderr_console, show_progress
from indexmill.flows.environment import open_root, prepare_environment
from indexmill.storage.disk_errors import check_free_space
from indexmill.storage.stopping import build_stopped_error
from indexmill.tasks.progress import track, use_watcher

if TYPE_CHECKING:
    from indexmill.flows.stage_runner import StageName

MIN_FREE_BYTES = 32_000_000  # bytes: Prefect's own database takes 5 MB, and its server would be waited for in vain


def run_build(
    config: str,
    root: str,
    settings: list[str],
    *,
    rehash: bool = False,
    force: str | None = None,
    refresh: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Run the flow `build-index` in this process and return its summary."""
    with _start_prefect(config, root, settings, verbose=verbose) as storage_root:
        from indexmill.flows.build_index import build_index

        return build_index(
            config, storage_root, settings, rehash, force, cast("StageName | None", refresh)
        )  # another name is refused there


def run_plan(config: str, root: str, settings: list[str], *, verbose: bool = False) -> dict[str, Any]:
    """Run the flow `plan-index` in this process and return its plan."""
    with _start_prefect(config, root, settings, verbose=verbose) as storage_root:
        from indexmill.flows.plan_index import plan_index

        return plan_index(config, storage_root, settings)


def run_study(config: str, root: str, settings: list[str], out: str | None, *, verbose: bool = False) -> dict[str, Any]:
    """Run the flow `study-index` in this process and return its summary."""
    with _start_prefect(config, root, settings, verbose=verbose) as storage_root:
        from indexmill.flows.study_index import study_index

        return study_index(config, storage_root, settings, out)


@contextmanager
def _start_prefect(config: str, root: str, settings: list[str], *, verbose: bool) -> Iterator[str]:
    """Check config and root before Prefect is started, then start it; yields the root's absolute path."""
    load_config(config, settings)
    storage_root = open_root(root)
    check_free_space(storage_root.path, MIN_FREE_BYTES)
    prepare_environment(storage_root.path, verbose=verbose)
    from indexmill.flows.local_prefect import embedded_server  # Prefect reads its settings when it is imported: after prepare_environment

    with (
        _unwind_on_sigterm(),
        show_progress(make_stderr_console()) as progress_display,
        use_watcher(progress_display),
        embedded_server() as wait_for_server,
    ):
        with track("starting Prefect", 1) as advance:
            from indexmill.flows import build_index  # noqa: F401 (slow to import: here it is shown, and overlaps the server's start)

            wait_for_server()
            advance(1)
        yield str(storage_root.path)


@contextmanager
def _unwind_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind what is under way, as Ctrl-C does, so that the server goes in good order. A flow that runs has its own rule."""
    before = signal.signal(signal.SIGTERM, _raise_stopped)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_stopped(number: int, frame: object) -> None:  # noqa: ARG001 (a handler's signature)
    raise build_stopped_error(signal.Signals(number))
