"""The flow `build-index`: one pipeline from its source to a published snapshot."""

from __future__ import annotations

from typing import Any

from prefect import flow

from indexmill.configs.loading import load_config
from indexmill.configs.models import PipelineConfig, StudyConfig
from indexmill.flows.environment import open_root
from indexmill.flows.hooks import tell
from indexmill.flows.planning import check_fit, plan_build
from indexmill.flows.preflight import check_encoder, check_factory, check_sizes, held_set
from indexmill.flows.stages import Stage, Stages, refreshed
from indexmill.flows.stopping import stoppable
from indexmill.flows.summary import Summary, summarise
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
from indexmill.tasks.validate import undecided, validate


@flow(
    name="build-index", flow_run_name="{config}", validate_parameters=False,
    on_failure=[tell], on_crashed=[tell], on_cancellation=[tell],
)  # fmt: skip
@stoppable
def build_index(
    config: str,
    root: str | None = None,
    settings: list[str] | None = None,
    rehash: bool = False,
    force: str | None = None,
    refresh: Stage | None = None,
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
    again = refreshed(refresh) | (frozenset({"ingest"}) if rehash else frozenset())
    place = open_root(root)
    try:
        with (
            translate_disk_errors(place.path),
            place.hold_shared(),
            lease(place.index(pipeline.name) / "lease", holder=f"build-index of {pipeline.name}"),
        ):
            place.remove_stale_temporaries()
            try:
                with translate_disk_errors(place.path):
                    stages = Stages(place, thorough=not _live_is_sound(place, pipeline.name), refresh=again)
                    return build(pipeline, stages, rehash=rehash, force=force).to_json()
            except DamagedFile:
                # A file changed behind its record. Once more, and this time every digest is checked before a record is believed.
                return build(pipeline, Stages(place, thorough=True, refresh=again), rehash=rehash, force=force).to_json()
    finally:
        place.close()


def build(config: PipelineConfig, stages: Stages, *, rehash: bool = False, force: str | None = None) -> Summary:
    """All stages in their order. Each takes records and its own part of the config, and hands a record on."""
    root, run = stages.root, stages.run
    with EncoderProcess() as process:
        dataset, validated, sides, identity = prepare(config, stages, process, rehash=rehash, building=True)
        check_sizes(config, sides)
        check_fit(plan_build(config, root, identity, validated, sides))
        embeddings = run(encode, process, sides, config.encoder, identity, config.validate_.max_reject_fraction)
    held = held_set(config, embeddings)
    trained = run(train, config.name, held, config.index)
    shards = run(shard, config.name, held, trained, config.index)
    tuned = run(
        tune, held, embeddings.for_modality(config.evaluation.query_modality or config.index.modality), trained, shards, config.index
    )
    evaluation = run(
        evaluate, config.name, embeddings, trained, shards, tuned, config.index, config.encoder, config.evaluation, config.split.leaks,
        sides.image_root, sides.pairs,
    )  # fmt: skip
    snapshot = run(
        publish, config.model_copy(update={"study": StudyConfig()}), validated, sides, embeddings, trained, shards, tuned, evaluation,
        force, stages.seconds(),
        doubt=lambda record: "" if Snapshots(root, config.name).live_id() else "nothing is live",
    )  # fmt: skip
    return summarise(config, stages, dataset, validated, embeddings, trained, tuned, evaluation, snapshot)


def prepare(
    config: PipelineConfig, stages: Stages, process: EncoderProcess, *, rehash: bool = False, building: bool = False
) -> tuple[Dataset, ValidatedDataset, SplitDataset, EncoderIdentity]:
    """The stages before the slow ones, and the encoder's identity in float32: asked first, so that a wrong model costs no reading.

    building: the watch is told that a build saw this revision of the source, however it ends. A plan or a study tells it nothing.
    """
    root, run = stages.root, stages.run
    check_factory(config.index)
    identity = check_encoder(config.encoder, root, process)
    found = revision(config.dataset, root)
    if building and root.last_revision(config.name) not in (None, found):
        process.preload(config.encoder)  # something has changed, so there will be something to encode
    dataset = run(ingest, config.name, config.dataset, found, rehash, doubt=unread)
    if building:
        root.scratch.write_text(root.revision_file(config.name), dataset.revision + "\n")
    validated = run(validate, dataset, config.validate_, doubt=undecided)
    return dataset, validated, run(split, validated, config.split), identity


def _live_is_sound(root: Root, name: str) -> bool:
    """Whether every file of the live snapshot is as its manifest says; true before the first."""
    snapshots = Snapshots(root, name)
    if snapshots.live_id() is None:
        return True
    try:
        snapshots.verify(snapshots.manifest())
    except DamagedFile:
        return False
    return True
