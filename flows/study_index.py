"""The flow `study-index`: compare encoders and indexes on a pipeline's own data."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.models import PipelineConfig
from indexmill.flows.build_index import run_data_stages
from indexmill.flows.cancellation import cancel_on_signal
from indexmill.flows.pipeline_context import open_pipeline
from indexmill.flows.planning import check_fit, plan_build
from indexmill.flows.preflight import check_sizes, get_index_embeddings
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage.atomic import Scratch
from indexmill.storage.device_profiles import load_device_profile
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.storage.store import FolderStore
from indexmill.tasks.encode import encode
from indexmill.tasks.encoding import EncoderIdentity
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.indexing.auto_factory import DEFAULT_RECALL_TARGET
from indexmill.tasks.indexing.factory_check import check_factory
from indexmill.tasks.studies.plan import make_index_config
from indexmill.tasks.studies.report import write_study_report
from indexmill.tasks.studies.results import EncodeStats, StudyRow
from indexmill.tasks.study import study


@flow(name="study-index", flow_run_name="{config}", validate_parameters=False)
@cancel_on_signal
def study_index(config: str, root: str | None = None, settings: list[str] | None = None, out: str | None = None) -> dict[str, Any]:
    """Compare the encoders and indexes in the config's section `study`. Publishes nothing.

    The items pass through the pipeline's own stages, and their embeddings go into its own embedding store.

    Args:
        config: The name of a bundled pipeline, or the path of a YAML file.
        root: The directory that holds everything; INDEXMILL_ROOT by default, else ./indexmill-data.
        settings: Changes to the config, each `dotted.key=value`.
        out: The folder for the results; studies/NAME under the root by default.

    Returns:
        What `indexmill study --json` prints.
    """
    with open_pipeline(config, root, settings) as (pipeline, storage_root):
        rows: list[StudyRow] = []
        for name, encoder_pipeline in _split_by_encoder(pipeline).items():
            with storage_root.lease_index(pipeline.name, "study-index"):
                embeddings, encode_stats = encode_for_study(encoder_pipeline, storage_root)
            rows += study(storage_root, name, encoder_pipeline, embeddings, encode_stats)
        return _write_report(pipeline, storage_root, Path(out) if out else None, rows)


def encode_for_study(config: PipelineConfig, root: Root) -> tuple[EmbeddingSet, EncodeStats]:
    """Run the stages up to encoding, from the cache where possible, and measure the encoding."""
    index_configs = [make_index_config(config.index, entry) for entry in config.study.indexes]
    for index in index_configs:
        check_factory(index)
    runner = StageRunner(root)
    with EncoderProcess() as process:
        _, validated, split_dataset, identity = run_data_stages(config, runner, process)
        for index in index_configs or [config.index.model_copy(update={"factory": "Flat"})]:
            check_sizes(config.model_copy(update={"index": index}), split_dataset)
        check_fit(plan_build(config, root, identity, validated, split_dataset))
        embeddings = runner.run(encode, process, split_dataset, config.encoder, identity, config.validate_.max_reject_fraction)
    get_index_embeddings(config, embeddings)
    encode_run = runner.runs["encode"]
    return embeddings, measure_encoding(root, identity, embeddings, None if encode_run.cached else encode_run.seconds)


def measure_encoding(root: Root, identity: EncoderIdentity, embeddings: EmbeddingSet, seconds: float | None) -> EncodeStats:
    """Return how long the encoding took, or the rate in the device profile if nothing was encoded.

    Args:
        root: The root with the device profiles.
        identity: The encoder's identity in float32.
        embeddings: The record of the stage `encode`.
        seconds: The stage's wall-clock seconds; None if its record was cached.
    """
    encoded = 0 if seconds is None else embeddings.encoded + (embeddings.captions.encoded if embeddings.captions else 0)
    if encoded and seconds:
        return EncodeStats(encoded=encoded, seconds=seconds, items_per_second=encoded / seconds, rate_from_profile=False)
    profile = load_device_profile(root, identity.fingerprint, embeddings.modality, get_device_name())
    rate = profile.rates.get(embeddings.encoder["precision"])
    return EncodeStats(encoded=0, seconds=None, items_per_second=rate, rate_from_profile=rate is not None)


def get_encoder_name(encoder: EncoderConfig) -> str:
    """Return a short name for an encoder without one: its model, without folders and prefixes."""
    parts = re.sub(r"^[a-z-]+:", "", encoder.model).split("/")
    return parts[0] if encoder.model.startswith("package:") else parts[-1].removesuffix(".pth")


def _split_by_encoder(config: PipelineConfig) -> dict[str, PipelineConfig]:
    """Return one pipeline per encoder and number of dimensions, by the encoder's name in the results."""
    encoders = config.study.encoders or {get_encoder_name(config.encoder): config.encoder}
    if config.study.dimensions:
        encoders = {
            f"{name}, {dimensions} dimensions": encoder.model_copy(update={"dimensions": dimensions})
            for name, encoder in encoders.items()
            for dimensions in config.study.dimensions
        }
    return {name: config.model_copy(update={"encoder": encoder}) for name, encoder in encoders.items()}


def _write_report(config: PipelineConfig, root: Root, out: Path | None, rows: list[StudyRow]) -> dict[str, Any]:
    report_header = {
        "name": config.name,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{get_device_name()}, {os.cpu_count()} cores",
        "target": config.index.recall_target or DEFAULT_RECALL_TARGET,
    }
    folder = out or root.study(config.name)
    scratch = Scratch(folder, FolderStore(folder)) if out else root.scratch
    try:
        paths = write_study_report(scratch, folder, report_header, rows)
    finally:
        if out:
            scratch.close()
    return report_header | {"files": [str(path) for path in paths], "rows": [row.model_dump() for row in rows]}
