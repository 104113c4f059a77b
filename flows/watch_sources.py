"""The flow `watch-sources`: look at every source, cheaply, and start a build where something has changed."""

from __future__ import annotations

from prefect import flow
from prefect.deployments import run_deployment

from indexmill.configs.loading import list_bundled_pipelines, load_config
from indexmill.flows.environment import open_root
from indexmill.storage.errors import IndexmillError
from indexmill.storage.root import Root
from indexmill.tasks.ingest import revision


@flow(name="watch-sources", validate_parameters=False)
def watch_sources(configs: list[str] | None = None, root: str | None = None) -> dict[str, str]:
    """Start the deployment `build-index/NAME` of every pipeline whose source is not what its last build saw.

    A source that cannot be looked at holds nobody else up. A build that is still running keeps the new one from starting; the next look
    tries again. Returns what was found of each: `started`, `unchanged`, or the trouble.

    Args:
        configs: Names; by default those of the pipelines that come along that have been built under the root.
        root: Where everything lies; INDEXMILL_ROOT by default, else ./indexmill-data.
    """
    storage_root = open_root(root)
    try:
        watched = (
            configs if configs is not None else [name for name in list_bundled_pipelines() if storage_root.revision_file(name).exists()]
        )
        return {name: _start_if_changed(storage_root, name) for name in watched}
    finally:
        storage_root.close()


def _start_if_changed(root: Root, name: str) -> str:
    try:
        source_revision = revision(load_config(name, []).dataset, root)
    except IndexmillError as error:
        return error.what
    if root.read_last_revision(name) == source_revision:
        return "unchanged"
    run_deployment(f"build-index/{name}", timeout=0, as_subflow=False)
    return "started"
