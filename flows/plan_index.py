"""The flow `plan-index`: what the next build would do."""

from __future__ import annotations

from typing import Any

from prefect import flow

from indexmill.configs.loading import load_config
from indexmill.flows.build_index import prepare
from indexmill.flows.environment import open_root
from indexmill.flows.planning import plan_build
from indexmill.flows.stages import Stages
from indexmill.flows.stopping import stoppable
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.locks import lease
from indexmill.tasks.encoding.process import EncoderProcess


@flow(name="plan-index", flow_run_name="{config}", validate_parameters=False)
@stoppable
def plan_index(config: str, root: str | None = None, settings: list[str] | None = None) -> dict[str, Any]:
    """What `build_index` would do with the same parameters. The items are listed, checked and split, which the build then remembers."""
    pipeline = load_config(config, settings or [])
    place = open_root(root)
    try:
        with translate_disk_errors(place.path), lease(place.index(pipeline.name) / "lease", holder=f"plan-index of {pipeline.name}"):
            with EncoderProcess() as process:
                _, validated, sides, identity = prepare(pipeline, Stages(place), process)
            return plan_build(pipeline, place, identity, validated, sides).to_json()
    finally:
        place.close()
