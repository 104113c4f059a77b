"""The flow `study-index`: encoders and indexes compared on a pipeline's own data."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.loading import load_config
from indexmill.configs.models import PipelineConfig
from indexmill.flows.build_index import run_data_stages
from indexmill.flows.cancellation import cancel_on_signal
from indexmill.flows.environment import open_root
from indexmill.flows.planning import check_fit, plan_build
from indexmill.flows.preflight import check_factory, check_sizes, get_index_embeddings
from indexmill.flows.stage_runner import StageRunner
from indexmill.storage.atomic import Scratch
from indexmill.storage.device_profiles import load_device_profile
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.locks import lease
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.encode import encode
from indexmill.tasks.encoding import EncoderIdentity
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.indexing.auto_factory import DEFAULT_RECALL_TARGET
from indexmill.tasks.studies.plan import make_index_config
from indexmill.tasks.studies.report import write_study_report
from indexmill.tasks.studies.results import EncodeStats, StudyRow
from indexmill.tasks.study import study


@flow(name="study-index", flow_run_name="{config}", validate_parameters=False)
@cancel_on_signal
def study_index(config: str, root: str | None = None, settings: list[str] | None = None, out: str | None = None) -> dict[str, Any]:
    """Compare the encoders and indexes of the config's section `study`. Vectors go through the pipeline's own stages, into its own store.

    Parameters as those of `build_index`; out: the folder for what is written, studies/<name> below the root by default.
    Returns what `indexmill study --json` prints.
    """
    pipeline = load_config(config, settings or [])
    storage_root = open_root(root)
    try:
        with translate_disk_errors(storage_root.path):
            rows: list[StudyRow] = []
            for name, one in _split_by_encoder(pipeline).items():
                with lease(storage_root.index(pipeline.name) / "lease", holder=f"study-index of {pipeline.name}"):
                    embeddings, encode_stats = encode_for_study(one, storage_root)
                rows += study(storage_root, name, one, embeddings, encode_stats)
            return _write_report(pipeline, storage_root, Path(out) if out else None, rows)
    finally:
        storage_root.close()


def encode_for_study(config: PipelineConfig, root: Root) -> tuple[EmbeddingSet, EncodeStats]:
    """The stages before an index, each remembered where it can be, and how long the encoding took."""
    index_configs = [make_index_config(config.index, entry) for entry in config.study.indexes]
    for index in index_configs:
        check_factory(index)
    stages = StageRunner(root)
    with EncoderProcess() as process:
        _, validated, split_dataset, identity = run_data_stages(config, stages, process)
        for index in index_configs or [config.index.model_copy(update={"factory": "Flat"})]:
            check_sizes(config.model_copy(update={"index": index}), split_dataset)
        check_fit(plan_build(config, root, identity, validated, split_dataset))
        embeddings = stages.run(encode, process, split_dataset, config.encoder, identity, config.validate_.max_reject_fraction)
    get_index_embeddings(config, embeddings)
    return embeddings, measure_encoding(root, identity, embeddings, None if stages.runs["encode"].cached else stages.runs["encode"].seconds)


def measure_encoding(root: Root, identity: EncoderIdentity, embeddings: EmbeddingSet, seconds: float | None) -> EncodeStats:
    """How long the encoding took; where nothing was encoded now, the rate that this device has shown before. identity: in float32."""
    encoded = 0 if seconds is None else embeddings.encoded + (embeddings.captions.encoded if embeddings.captions else 0)
    if encoded and seconds:
        return EncodeStats(encoded=encoded, seconds=seconds, items_per_second=encoded / seconds, rate_from_profile=False)
    profile = load_device_profile(root, identity.fingerprint, embeddings.modality, get_device_name())
    rate = profile.rates.get(embeddings.encoder["precision"])
    return EncodeStats(encoded=0, seconds=None, items_per_second=rate, rate_from_profile=rate is not None)


def get_encoder_name(encoder: EncoderConfig) -> str:
    """A short name for an encoder that the config gives none: its model, without the way to it."""
    parts = re.sub(r"^[a-z-]+:", "", encoder.model).split("/")
    return parts[0] if encoder.model.startswith("package:") else parts[-1].removesuffix(".pth")


def _split_by_encoder(config: PipelineConfig) -> dict[str, PipelineConfig]:
    """A pipeline an encoder, by the name that the encoder has in the table."""
    encoders = config.study.encoders or {get_encoder_name(config.encoder): config.encoder}
    return {name: config.model_copy(update={"encoder": encoder}) for name, encoder in encoders.items()}


def _write_report(config: PipelineConfig, root: Root, out: Path | None, rows: list[StudyRow]) -> dict[str, Any]:
    """Write all files, and what the command prints."""
    report_header = {
        "name": config.name, "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{get_device_name()}, {os.cpu_count()} cores", "target": config.index.recall_target or DEFAULT_RECALL_TARGET,
    }  # fmt: skip
    folder = out or root.study(config.name)
    scratch = Scratch(folder) if out else root.scratch
    try:
        paths = write_study_report(scratch, folder, report_header, rows)
    finally:
        if out:
            scratch.close()
    return report_header | {"files": [str(path) for path in paths], "rows": [row.model_dump() for row in rows]}
