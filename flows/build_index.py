"""The flow `build-index`: one pipeline from its source to a published snapshot."""

from __future__ import annotations

from typing import Any

from prefect import flow

from indexmill.configs.loading import load_config
from indexmill.configs.models import PipelineConfig, StudyConfig
from indexmill.flows.build_summary import BuildSummary, summarize_build
from indexmill.flows.cancellation import cancel_on_signal
from indexmill.flows.environment import open_root
from indexmill.flows.planning import check_fit, plan_build
from indexmill.flows.preflight import check_encoder, check_factory, check_sizes, get_index_embeddings
from indexmill.flows.stage_runner import StageName, StageRunner, select_stages_from
from indexmill.flows.webhook import send_webhook
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.errors import DamagedFile
from indexmill.storage.locks import lease
from indexmill.storage.records import Dataset, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.encode import encode
from indexmill.tasks.encoding import EncoderIdentity
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.evaluate import evaluate
from indexmill.tasks.ingest import ingest, revision, unread
from indexmill.tasks.publish import publish
from indexmill.tasks.shard import shard
from indexmill.tasks.split import split
from indexmill.tasks.train import train
from indexmill.tasks.tune import tune
from indexmill.tasks.validate import list_transient_reasons, validate


@flow(
    name="build-index", flow_run_name="{config}", validate_parameters=False,
    on_failure=[send_webhook], on_crashed=[send_webhook], on_cancellation=[send_webhook],
)  # fmt: skip
@cancel_on_signal
def build_index(
    config: str,
    root: str | None = None,
    settings: list[str] | None = None,
    rehash: bool = False,
    force: str | None = None,
    refresh: StageName | None = None,
) -> dict[str, Any]:
    """Build the index of a pipeline and publish it if it is good. Returns the summary that `indexmill build --json` prints.

    Args:
        config: A name under configs/, or the path of a YAML file.
        root: Where everything lies; INDEXMILL_ROOT by default, else ./indexmill-data.
        settings: Changes to the config, each `dotted.key=value`.
        rehash: Read every file again, whatever its size and modification time say.
        force: The reason for publishing the build even if the gate refuses it; the manifest keeps it.
        refresh: A stage that is done again, with those that follow it, whatever is remembered.
    """
    pipeline = load_config(config, settings or [])
    stages_to_refresh = select_stages_from(refresh) | (frozenset({"ingest"}) if rehash else frozenset())
    storage_root = open_root(root)
    try:
        with (
            translate_disk_errors(storage_root.path),
            storage_root.hold_shared(),
            lease(storage_root.index(pipeline.name) / "lease", holder=f"build-index of {pipeline.name}"),
        ):
            storage_root.remove_stale_temporaries()
            try:
                with translate_disk_errors(storage_root.path):
                    stages = StageRunner(
                        storage_root, thorough=not _is_live_snapshot_intact(storage_root, pipeline.name), refresh=stages_to_refresh
                    )
                    return run_stages(pipeline, stages, rehash=rehash, force=force).to_json()
            except DamagedFile:
                # A file changed behind its record. Once more, and this time every digest is checked before a record is believed.
                return run_stages(
                    pipeline, StageRunner(storage_root, thorough=True, refresh=stages_to_refresh), rehash=rehash, force=force
                ).to_json()
    finally:
        storage_root.close()


def run_stages(config: PipelineConfig, stages: StageRunner, *, rehash: bool = False, force: str | None = None) -> BuildSummary:
    """All stages in their order. Each takes records and its own part of the config, and hands a record on."""
    root, run = stages.root, stages.run
    with EncoderProcess() as process:
        dataset, validated, split_dataset, identity = run_data_stages(config, stages, process, rehash=rehash, record_revision=True)
        check_sizes(config, split_dataset)
        check_fit(plan_build(config, root, identity, validated, split_dataset))
        embeddings = run(encode, process, split_dataset, config.encoder, identity, config.validate_.max_reject_fraction)
    index_embeddings = get_index_embeddings(config, embeddings)
    trained = run(train, config.name, index_embeddings, config.index)
    shards = run(shard, config.name, index_embeddings, trained, config.index)
    tuned = run(
        tune,
        index_embeddings,
        embeddings.for_modality(config.evaluation.query_modality or config.index.modality),
        trained,
        shards,
        config.index,
    )
    evaluation = run(
        evaluate, config.name, embeddings, trained, shards, tuned, config.index, config.encoder, config.evaluation, config.split.leaks,
        split_dataset.image_root, split_dataset.pairs,
    )  # fmt: skip
    snapshot = run(
        publish, config.model_copy(update={"study": StudyConfig()}), validated, split_dataset, embeddings, trained, shards, tuned, evaluation,
        force, stages.seconds(),
        staleness_check=lambda record: "" if Snapshots(root, config.name).get_live_id() else "nothing is live",
    )  # fmt: skip
    return summarize_build(config, stages, dataset, validated, embeddings, trained, tuned, evaluation, snapshot)


def run_data_stages(
    config: PipelineConfig, stages: StageRunner, process: EncoderProcess, *, rehash: bool = False, record_revision: bool = False
) -> tuple[Dataset, ValidatedDataset, SplitDataset, EncoderIdentity]:
    """The stages before the slow ones, and the encoder's identity in float32: asked first, so that a wrong model costs no reading.

    building: the watch is told that a build saw this revision of the source, however it ends. A plan or a study tells it nothing.
    """
    root, run = stages.root, stages.run
    check_factory(config.index)
    identity = check_encoder(config.encoder, root, process)
    source_revision = revision(config.dataset, root)
    if record_revision and root.read_last_revision(config.name) not in (None, source_revision):
        process.preload(config.encoder)  # something has changed, so there will be something to encode
    dataset = run(ingest, config.name, config.dataset, source_revision, rehash, staleness_check=unread)
    if record_revision:
        root.scratch.write_text(root.revision_file(config.name), dataset.revision + "\n")
    validated = run(validate, dataset, config.validate_, staleness_check=list_transient_reasons)
    return dataset, validated, run(split, validated, config.split), identity


def _is_live_snapshot_intact(root: Root, name: str) -> bool:
    """Whether every file of the live snapshot is as its manifest says; true before the first."""
    snapshots = Snapshots(root, name)
    if snapshots.get_live_id() is None:
        return True
    try:
        snapshots.verify(snapshots.read_manifest())
    except DamagedFile:
        return False
    return True
