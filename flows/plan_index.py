"""The flow `plan-index`: estimate what the next build will do."""

from __future__ import annotations

from typing import Any

from prefect import flow

from indexmill.flows.build_index import run_data_stages
from indexmill.flows.cancellation import cancel_on_signal
from indexmill.flows.pipeline_context import open_pipeline
from indexmill.flows.planning import add_chunk_estimate, plan_build
from indexmill.flows.stage_runner import StageRunner
from indexmill.tasks.encoding.process import EncoderProcess


@flow(name="plan-index", flow_run_name="{config}", validate_parameters=False)
@cancel_on_signal
def plan_index(config: str, root: str | None = None, settings: list[str] | None = None) -> dict[str, Any]:
    """Estimate what `build_index` would do with the same parameters. Encodes and publishes nothing.

    Items are listed, validated and split; the next build reuses these results.
    """
    with open_pipeline(config, root, settings) as (pipeline, storage_root), storage_root.lease_index(pipeline.name, "plan-index"):
        with EncoderProcess() as process:
            dataset, validated, split_dataset, identity = run_data_stages(pipeline, StageRunner(storage_root), process)
        plan = plan_build(pipeline, storage_root, identity, validated, split_dataset, downloaded_bytes=dataset.downloaded_bytes)
        return add_chunk_estimate(plan, pipeline, storage_root, split_dataset).to_json()
