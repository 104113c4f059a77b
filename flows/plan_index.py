"""The flow `plan-index`: what the next build would do."""

from __future__ import annotations

from typing import Any

from prefect import flow

from indexmill.configs.loading import load_config
from indexmill.flows.build_index import run_data_stages
from indexmill.flows.cancellation import cancel_on_signal
from indexmill.flows.environment import open_root
from indexmill.flows.planning import plan_build
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.locks import lease
from indexmill.tasks.encoding.process import EncoderProcess


@flow(name="plan-index", flow_run_name="{config}", validate_parameters=False)
@cancel_on_signal
def plan_index(config: str, root: str | None = None, settings: list[str] | None = None) -> dict[str, Any]:
    """What `build_index` would do with the same parameters. The items are listed, checked and split, which the build then remembers."""
    pipeline = load_config(config, settings or [])
    storage_root = open_root(root)
    try:
        with (
            translate_disk_errors(storage_root.path),
            lease(storage_root.index(pipeline.name) / "lease", holder=f"plan-index of {pipeline.name}"),
        ):
            with EncoderProcess() as process:
                _, validated, split_dataset, identity = run_data_stages(pipeline, StageRunner(storage_root), process)
            return plan_build(pipeline, storage_root, identity, validated, split_dataset).to_json()
    finally:
        storage_root.close()
