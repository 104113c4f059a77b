"""The flow `build-index`: run one pipeline, from its source to a published snapshot."""

from __future__ import annotations

from typing import Any

from prefect import flow

from indexmill.configs.models import PipelineConfig, StudyConfig
from indexmill.flows.build_summary import BuildSummary, summarize_build
from indexmill.flows.cancellation import cancel_on_signal
from indexmill.flows.early_encoder import take_early_encoder
from indexmill.flows.exports import RunExport, describe_repetition, raise_if_failed, run_pipeline_exports
from indexmill.flows.pipeline_context import open_pipeline
from indexmill.flows.planning import check_fit, plan_build
from indexmill.flows.prefect_server import get_configured_url
from indexmill.flows.preflight import check_encoder, check_sizes, get_index_embeddings, get_query_embeddings
from indexmill.flows.stage_runner import StageName, StageRunner, select_stages_from
from indexmill.flows.webhook import send_webhook
from indexmill.storage.digests import forget_file_digests
from indexmill.storage.disk_errors import translate_disk_errors
from indexmill.storage.errors import DamagedFile
from indexmill.storage.records import Dataset, SplitDataset, ValidatedDataset
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.chunk import chunk
from indexmill.tasks.cluster.connect import open_runner
from indexmill.tasks.encode import encode
from indexmill.tasks.encoding import EncoderIdentity
from indexmill.tasks.encoding.precision import find_expected_model
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.evaluate import evaluate
from indexmill.tasks.evaluation.own_measures import find_measure_versions
from indexmill.tasks.export import export
from indexmill.tasks.indexing.factory_check import check_factory
from indexmill.tasks.ingest import describe_stale_listing, ingest
from indexmill.tasks.publish import describe_stale_snapshot, publish
from indexmill.tasks.queries import read_queries
from indexmill.tasks.runner import LOCAL_RUNNER, Runner
from indexmill.tasks.shard import shard
from indexmill.tasks.sources.revisions import combine_revisions, read_revisions
from indexmill.tasks.split import split
from indexmill.tasks.train import train
from indexmill.tasks.tune import tune
from indexmill.tasks.validate import list_transient_reasons, validate


def run_stages(
    config: PipelineConfig,
    stages: StageRunner,
    runner: Runner,
    *,
    process: EncoderProcess | None = None,
    rehash: bool = False,
    force: str | None = None,
    run_export: RunExport = export,
) -> BuildSummary:
    """Run all stages in order, then the exports. Each stage takes records and its part of the config, and returns the next record."""
    root, run = stages.root, stages.run
    measure_versions = find_measure_versions(config.evaluation)
    with process or take_early_encoder() or EncoderProcess() as process:
        dataset, validated, split_dataset, identity = run_data_stages(config, stages, process, runner, rehash=rehash, record_revision=True)
        check_sizes(config, split_dataset)
        check_fit(plan_build(config, root, identity, validated, split_dataset))
        embeddings = run(encode, process, split_dataset, config.encoder, identity, config.validate_.max_reject_fraction, runner)
    index_embeddings = get_index_embeddings(config, embeddings)
    query_embeddings = get_query_embeddings(config, embeddings)
    trained = run(train, config.name, index_embeddings.indexed_vectors, config.index)
    shards = run(shard, config.name, index_embeddings.indexed_vectors, trained, config.index, runner)
    tuned = run(tune, config.name, index_embeddings, query_embeddings, trained, shards, config.index)
    evaluation = run(
        evaluate,
        name=config.name,
        embeddings=embeddings,
        trained=trained,
        shards=shards,
        tuned=tuned,
        index=config.index,
        encoder=config.encoder,
        config=config.evaluation,
        leaks=config.split.leaks,
        image_root=split_dataset.image_root,
        pairs=split_dataset.pairs,
        measure_versions=measure_versions,
        runner=runner,
    )
    snapshot = run(
        publish,
        config=config.model_copy(update={"study": StudyConfig()}),
        validated=validated,
        split=split_dataset,
        embeddings=embeddings,
        trained=trained,
        shards=shards,
        tuned=tuned,
        evaluation=evaluation,
        force=force,
        stage_seconds=stages.seconds(),
        runner=runner,
        staleness_check=lambda record: describe_stale_snapshot(root, config.name, record),
    )
    exports = run_pipeline_exports(root, config.name, config.publish.export, run_export)
    return summarize_build(
        config,
        stages,
        dataset=dataset,
        validated=validated,
        embeddings=embeddings,
        trained=trained,
        tuned=tuned,
        evaluation=evaluation,
        snapshot=snapshot,
        exports=exports,
    )


def run_data_stages(
    config: PipelineConfig,
    stages: StageRunner,
    process: EncoderProcess,
    runner: Runner = LOCAL_RUNNER,
    *,
    rehash: bool = False,
    record_revision: bool = False,
) -> tuple[Dataset, ValidatedDataset, SplitDataset, EncoderIdentity]:
    """Run the stages before encoding, `queries` among them if there are any of one's own, and identify the encoder.

    The encoder is checked first, so that a wrong model is found before the data are read.

    Args:
        config: The pipeline.
        stages: The runner of this build.
        process: The encoding process, which starts to load the model if there will be something to encode.
        runner: Runs the image checks.
        rehash: Read every file again, even if its size and modification time are unchanged.
        record_revision: Record the source's revision for `watch-sources`, as a build does, and a plan or a study does
            not.

    Returns:
        The records of ingest, validate and split, and the encoder's identity in float32.
    """
    root, run = stages.root, stages.run
    check_factory(config.index)
    identity = check_encoder(config.encoder, root, process)
    revisions, own_queries = read_revisions(config, root), config.own_queries
    if runner.is_local and record_revision and root.read_last_revision(config.name) not in (None, revisions.combined):
        # The source has changed, so there will be something to encode.
        process.preload(config.encoder, find_expected_model(root, config.encoder, identity))
    source_config = config.dataset.model_copy(update={"chunk": None})  # texts are listed in the same way, chunks or not
    dataset = run(ingest, config.name, source_config, revisions.source, rehash, staleness_check=describe_stale_listing)
    if record_revision:
        root.scratch.write_text(root.revision_file(config.name), combine_revisions(dataset.revision, revisions.queries) + "\n")
    validated = run(validate, dataset, config.validate_, runner, staleness_check=list_transient_reasons)
    split_dataset = run(split, validated, config.split)
    if config.dataset.chunk:
        split_dataset = run(chunk, split_dataset, config.dataset.chunk, config.encoder, identity.fingerprint)
    if own_queries:
        split_dataset = run(read_queries, split_dataset, own_queries, revisions.queries)
    return dataset, validated, split_dataset, identity


@flow(
    name="build-index",
    flow_run_name="{config}",
    validate_parameters=False,
    on_failure=[send_webhook],
    on_crashed=[send_webhook],
    on_cancellation=[send_webhook],
)
@cancel_on_signal
def build_index(
    config: str,
    root: str | None = None,
    settings: list[str] | None = None,
    rehash: bool = False,
    force: str | None = None,
    refresh: StageName | None = None,
) -> dict[str, Any]:
    """Build the index of a pipeline, and publish it if it passes the gate.

    Args:
        config: The name of a bundled pipeline, or the path of a YAML file.
        root: The directory that holds everything; INDEXMILL_ROOT by default, else ./indexmill-data.
        settings: Changes to the config, each `dotted.key=value`.
        rehash: Read every file again, even if its size and modification time are unchanged.
        force: Publish the build even if the gate refuses it; this reason is kept in the manifest.
        refresh: Run this stage and all later ones again, even if their results are cached.

    Returns:
        The summary that `indexmill build --json` prints.

    Raises:
        PublishRefused: The gate refuses the build; the live snapshot stays.
        ExportFailed: The build is published, but an export failed.
    """
    stages_to_refresh = select_stages_from(refresh) | (frozenset({"ingest"}) if rehash else frozenset())
    with (
        open_pipeline(config, root, settings) as (pipeline, storage_root),
        storage_root.hold_shared(),
        storage_root.lease_index(pipeline.name, "build-index"),
        open_runner(pipeline.run, storage_root, get_configured_url) as runner,
    ):
        storage_root.remove_stale_temporaries()
        is_intact = is_live_snapshot_intact(storage_root, pipeline.name)
        try:
            with translate_disk_errors(storage_root.path):
                stages = StageRunner(storage_root, thorough=not is_intact, refresh=stages_to_refresh)
                summary = run_stages(pipeline, stages, runner, rehash=rehash, force=force)
        except DamagedFile:
            # A file changed after its record was written: try once more, and check digests before reusing any record.
            forget_file_digests()
            stages = StageRunner(storage_root, thorough=True, refresh=stages_to_refresh)
            summary = run_stages(pipeline, stages, runner, rehash=rehash, force=force)
        raise_if_failed(summary.exports, pipeline.name, describe_repetition(storage_root, pipeline.name), summary.to_json())
        return summary.to_json()


def is_live_snapshot_intact(root: Root, name: str) -> bool:
    """Return whether every file of the live snapshot matches its manifest; true if nothing is live."""
    snapshots = Snapshots(root, name)
    if snapshots.get_live_id() is None:
        return True
    try:
        snapshots.verify(snapshots.read_manifest())
    except DamagedFile:
        return False
    return True
