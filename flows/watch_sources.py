"""The flow `watch-sources`: check every source cheaply, and start a build where something changed."""

from __future__ import annotations

from prefect import flow
from prefect.deployments import run_deployment

from indexmill.configs.loading import list_bundled_pipelines, load_config
from indexmill.flows.pipeline_context import open_root
from indexmill.storage.errors import IndexmillError
from indexmill.storage.root import Root
from indexmill.tasks.sources.revisions import read_revisions


@flow(name="watch-sources", validate_parameters=False)
def watch_sources(configs: list[str] | None = None, root: str | None = None) -> dict[str, str]:
    """Start the deployment `build-index/NAME` of every pipeline whose source or queries have changed since its last build.

    An unreachable source does not hold up the others. While a pipeline's build is running, no second one starts; the
    next check tries again.

    Args:
        configs: Pipeline names; by default the bundled pipelines that have been built under the root.
        root: The directory that holds everything; INDEXMILL_ROOT by default, else ./indexmill-data.

    Returns:
        For each pipeline `started`, `unchanged`, or the error.
    """
    with open_root(root) as storage_root:
        if configs is None:
            configs = [name for name in list_bundled_pipelines() if storage_root.exists(storage_root.revision_file(name))]
        return {name: _start_if_changed(storage_root, name) for name in configs}


def _start_if_changed(root: Root, name: str) -> str:
    try:
        revision = read_revisions(load_config(name, []), root).combined
    except IndexmillError as error:
        return error.what
    if root.read_last_revision(name) == revision:
        return "unchanged"
    run_deployment(f"build-index/{name}", timeout=0, as_subflow=False)
    return "started"
