"""Run the flows in this process: environment, embedded Prefect server, flow, in that order.

The command line runs builds, plans and studies through this module, and `indexmill.build` is its function `build`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import yaml

from indexmill.configs.loading import load_config
from indexmill.configs.models import PipelineConfig
from indexmill.flows.environment import prepare_environment
from indexmill.flows.pipeline_context import open_root
from indexmill.flows.server_process import ServerProcess, is_environment_complete, start_server
from indexmill.storage.digests import digesting_files_once
from indexmill.storage.disk_errors import check_free_space
from indexmill.storage.errors import IndexmillError
from indexmill.storage.stopping import Stopped, build_stopped_error
from indexmill.tasks.progress import track

if TYPE_CHECKING:
    from indexmill.flows.stage_runner import StageName

# Prefect's database takes 5 MB. On a full disk its server would never start, so check first.
MIN_FREE_BYTES = 32_000_000
# What the stages of a build with changes import when they need it: 2.5 CPU seconds, and the server takes twice as long to start.
LATE_IMPORTS = ("indexmill.tasks.validation.schema", "scipy.stats", "sklearn.decomposition", "indexmill.tasks.reports.plots")


def build(
    config: str | Path | PipelineConfig,
    root: str | Path | None = None,
    *,
    settings: Sequence[str] = (),
    rehash: bool = False,
    force: str | None = None,
    refresh: str | None = None,
) -> dict[str, Any]:
    """Build the index of a pipeline, and publish it if it passes the gate.

    The build runs in this process, with an embedded Prefect server unless PREFECT_API_URL names another. It sets
    environment variables of Prefect and the model libraries where they are not set already
    (`indexmill.flows.environment`).

    Args:
        config: The name of a bundled pipeline, the path of a YAML file, or a PipelineConfig (as
            `indexmill.load_config` returns it).
        root: The directory that holds everything; None means INDEXMILL_ROOT, or ./indexmill-data where that is not set.
        settings: Changes to the config, each `dotted.key=value`.
        rehash: Read every file again, even if its size and modification time are unchanged.
        force: Publish the build even if the gate refuses it; this reason is kept in the manifest.
        refresh: Run this stage and all later ones again, even if their results are cached.

    Returns: The summary that `indexmill build --json` prints: snapshot, counts, index, metrics, and the seconds of
    each stage.

    Raises:
        PublishRefused: The gate refuses the build; the live snapshot stays.
        ExportFailed: The build is published, but an export failed; `summary` is what would have been returned.
        IndexmillError: Anything else that a user can fix: config, source, root, a build in progress.
    """
    with _write_config_file(config) as name_or_path:
        return run_build(name_or_path, root, settings, rehash=rehash, force=force, refresh=refresh)


def run_build(
    config: str,
    root: str | Path | None,
    settings: Sequence[str],
    *,
    rehash: bool = False,
    force: str | None = None,
    refresh: str | None = None,
    verbose: bool = False,
) -> dict[str, Any]:
    """Run the flow `build-index` and return its summary; without a server if nothing has changed since the last build."""
    location = _prepare(config, root, settings, verbose=verbose)
    with _raise_on_sigterm(), _start_early_if_changed(config, location, settings) as early:
        if not (rehash or refresh or early.has_work) and not _is_server_configured():
            with _look_for_changes():
                from indexmill.flows.unchanged_runs import find_unchanged_build

                if summary := find_unchanged_build(config, location, settings, force):
                    return summary
        with _start_prefect(early.server, LATE_IMPORTS):
            from indexmill.flows.build_index import build_index

            stage = cast("StageName | None", refresh)  # the flow refuses any other name
            return build_index(config, location, list(settings), rehash, force, stage)


def run_plan(config: str, root: str | Path | None, settings: Sequence[str], *, verbose: bool = False) -> dict[str, Any]:
    """Run the flow `plan-index` and return its plan; without a server if nothing has changed since the last run."""
    location = _prepare(config, root, settings, verbose=verbose)
    if not _is_server_configured():
        with _look_for_changes():
            from indexmill.flows.unchanged_runs import find_unchanged_plan

            if plan := find_unchanged_plan(config, location, settings):
                return plan
    with _start_prefect():
        from indexmill.flows.plan_index import plan_index

        return plan_index(config, location, list(settings))


def run_study(config: str, root: str | Path | None, settings: Sequence[str], out: Path | None, *, verbose: bool = False) -> dict[str, Any]:
    """Run the flow `study-index` and return its result."""
    location = _prepare(config, root, settings, verbose=verbose)
    with _start_prefect():
        from indexmill.flows.study_index import study_index

        return study_index(config, location, list(settings), str(out.resolve()) if out else None)


@contextmanager
def _write_config_file(config: str | Path | PipelineConfig) -> Iterator[str]:
    """Yield a name or path, since a flow's parameters are plain values; a PipelineConfig goes into a temporary file."""
    if not isinstance(config, PipelineConfig):
        yield str(config)
        return
    with TemporaryDirectory(prefix="indexmill-") as folder:
        path = Path(folder) / f"{config.name}.yaml"
        values = config.dump_all(exclude_unset=True)
        path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
        yield str(path)


def _prepare(config: str, root: str | Path | None, settings: Sequence[str], *, verbose: bool) -> str:
    """Check config and root, and set the environment for Prefect; returns the root's absolute path or URL."""
    load_config(config, settings)
    with open_root(root) as storage_root:
        root_path, location = storage_root.path, str(storage_root)
    check_free_space(root_path, MIN_FREE_BYTES)
    prepare_environment(root_path, verbose=verbose)
    return location


def _is_server_configured() -> bool:
    from indexmill.flows.prefect_server import get_configured_url  # Prefect reads its settings on import

    return bool(get_configured_url())


class _EarlyStart(NamedTuple):
    """Whether the source is new or has changed since the last build, and the server that was started for that."""

    has_work: bool
    server: ServerProcess | None


@contextmanager
def _start_early_if_changed(config: str, location: str, settings: Sequence[str]) -> Iterator[_EarlyStart]:
    """Look whether the source is new or has changed; if so, start Prefect's server and the encoder before Prefect is imported.

    The build in the block does not read the revision again, and no file twice to verify it. An error counts as work: the
    build reports it where the pipeline says.
    """
    from indexmill.flows.early_encoder import start_encoder_early
    from indexmill.tasks.sources.revisions import read_revisions, reading_revisions_once

    pipeline, server = load_config(config, settings), None
    with digesting_files_once(), reading_revisions_once(), ExitStack() as stack:
        try:
            with _look_for_changes("reading the source's revision"), open_root(location) as root:
                last_revision = root.read_last_revision(pipeline.name)
                has_work = last_revision is None or read_revisions(pipeline, root).combined != last_revision
                if has_work and is_environment_complete():
                    server = stack.enter_context(start_server())
                if has_work and pipeline.run.runner == "local":
                    stack.enter_context(start_encoder_early(pipeline, root, is_first=last_revision is None))
        except Stopped:
            raise
        except IndexmillError:
            has_work = True
        yield _EarlyStart(has_work, server)


@contextmanager
def _look_for_changes(step: str = "looking for changes") -> Iterator[None]:
    with _raise_on_sigterm(), track(step, 1) as advance:
        yield
        advance(1)


@contextmanager
def _start_prefect(started: ServerProcess | None = None, late_imports: Sequence[str] = ()) -> Iterator[None]:
    """Run the block with Prefect's server: `started`, or one of its own. Imports modules while that is starting."""
    from indexmill.flows.local_prefect import embedded_server
    from indexmill.flows.prefect_server import explain_server_failures, get_configured_url

    configured_url = get_configured_url()
    device_limit = nullcontext() if configured_url else _use_no_device_limit()
    with _raise_on_sigterm(), device_limit, embedded_server(started) as wait_for_server:
        with track("starting Prefect", 1) as advance:
            from indexmill.flows import build_index  # noqa: F401 (slow; imported here, it overlaps with the server's start)

            for module in late_imports:
                import_module(module)
            wait_for_server()
            advance(1)
        with explain_server_failures(configured_url):
            yield


@contextmanager
def _use_no_device_limit() -> Iterator[None]:
    """Acquire no GPU slot in the block: an embedded server has no limits, since only this build uses it."""
    from indexmill.tasks.gpu_slot import LIMIT_VARIABLE

    previous = os.environ.get(LIMIT_VARIABLE)
    os.environ[LIMIT_VARIABLE] = ""
    try:
        yield
    finally:
        if previous is None:
            del os.environ[LIMIT_VARIABLE]
        else:
            os.environ[LIMIT_VARIABLE] = previous


@contextmanager
def _raise_on_sigterm() -> Iterator[None]:
    """Make SIGTERM unwind the block, as Ctrl-C does, so that the server is shut down.

    A running flow handles signals itself.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, _raise_stopped)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _raise_stopped(number: int, frame: object) -> None:  # noqa: ARG001 (a handler's signature)
    raise build_stopped_error(signal.Signals(number))
