"""Checks that fail a build before its slow stages start."""

from __future__ import annotations

from indexmill.configs.datasets import (
    ColumnsConfig,
    DatasetConfig,
    FolderDatasetConfig,
    ImageFolderConfig,
    KaggleDatasetConfig,
    PythonDatasetConfig,
    WebDatasetConfig,
)
from indexmill.configs.encoders import EncoderConfig, PythonEncoderConfig
from indexmill.configs.models import PipelineConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.encoding import EncoderIdentity, identify
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ModelSpec
from indexmill.tasks.encoding.python_encoder import load_encoder_factory
from indexmill.tasks.evaluation.own_measures import find_measure_versions
from indexmill.tasks.gpu_slot import acquire_gpu_slot
from indexmill.tasks.indexing.factory import min_training_items
from indexmill.tasks.progress import track
from indexmill.tasks.sources.python_source import load_source_factory


def check_encoder(config: EncoderConfig, root: Root, process: EncoderProcess) -> EncoderIdentity:
    """Return the encoder's identity in float32; load a model that is new under this root, to check its weights.

    Raises:
        InputError: The weights are missing, are not the expected ones, or belong to another architecture.
    """
    identity = identify(config)
    if not root.list_files(root.encoder(identity.fingerprint), "**"):
        with acquire_gpu_slot() as is_shared, track("loading the model", 1) as advance:
            process.check_model(ModelSpec(config, "float32", identity.modalities[0]))
            if is_shared:
                process.stop()  # frees the device's memory for the next holder of the slot
            advance(1)
    return identity


def check_extensions(config: PipelineConfig) -> None:
    """Import the encoder, the source and the measures of one's own, and check them as far as is possible without a call.

    Raises:
        InputError: One of them does not exist, does not fit its protocol, or has no version.
    """
    if isinstance(config.encoder, PythonEncoderConfig):
        load_encoder_factory(config.encoder)
    if isinstance(config.dataset, PythonDatasetConfig):
        load_source_factory(config.dataset)
    find_measure_versions(config.evaluation)


def check_sizes(config: PipelineConfig, split: SplitDataset) -> None:
    """Raise InputError if there are too few items for evaluation.k or the factory, no queries, or only one label."""
    ks, factory = config.evaluation.k, config.index.factory
    side_counts = f"{split.database} on the database side, {split.query} on the query side"
    if split.labeled and split.labels == 1 and not split.query_tables:
        raise InputError(
            "all items have one label, so every result would count as relevant",
            where=f"dataset of {config.name}" + (f": {split.image_root}" if split.image_root else ""),
            expected="at least 2 labels",
            got=f"1 label over {split.database + split.query} items",
            next_step=_advise_on_one_label(config.dataset),
        )
    if split.database < max(ks):
        smaller_ks = [k for k in ks if k <= split.database] or [1]
        raise InputError(
            "there are fewer items than the largest evaluation.k",
            where=f"evaluation.k = {list(ks)}",
            expected=f"at least {max(ks)} items on the database side",
            got=side_counts,
            next_step=f"add items, or use --set evaluation.k=[{','.join(map(str, smaller_ks))}]",
        )
    if split.database < min_training_items(factory):
        raise InputError(
            "there are fewer items than the factory has lists or centroids",
            where=f"index.factory = {factory}",
            expected=f"at least {min_training_items(factory)} items on the database side",
            got=side_counts,
            next_step="add items, or use --set index.factory=Flat",
        )
    if not split.query and config.split.mode != "none":
        raise InputError(
            "the query side is empty, so nothing can be measured",
            where=f"split.mode = {config.split.mode}",
            expected="at least 1 query",
            got=side_counts,
            next_step="add items, raise split.query_fraction, or use --set split.mode=none to publish without metrics",
        )


def get_index_embeddings(config: PipelineConfig, embeddings: EmbeddingSet) -> EmbeddingSet:
    """Return the embeddings that the index will hold, whatever the queries are.

    Raises:
        InputError: There are no embeddings of index.modality or of evaluation.query_modality.
    """
    try:
        embeddings.for_modality(config.evaluation.query_modality)
        return embeddings.for_modality(config.index.modality)
    except KeyError as error:
        raise InputError(
            f"there are no {error.args[0]} embeddings",
            where=f"index.modality = {config.index.modality}, evaluation.query_modality = {config.evaluation.query_modality}",
            expected="images with captions, and an encoder for both (such as open-clip)",
            got=f"{embeddings.modality}s, {config.encoder.kind}",
            next_step="set dataset.captions (folders) or dataset.text_column (tables), or remove both keys",
        ) from None


def get_query_embeddings(config: PipelineConfig, embeddings: EmbeddingSet) -> EmbeddingSet:
    """Return the embeddings whose query side is searched for: the main set of one's own queries, else the held-out items'."""
    if embeddings.query_sets:
        return embeddings.query_sets[0].embeddings
    return embeddings.for_modality(config.evaluation.query_modality or config.index.modality)


def _advise_on_one_label(dataset: DatasetConfig) -> str:
    """Return what to do when all items have one label, in the source's own keys."""
    unlabel = "or use --set {} to skip relevance metrics"
    match dataset:
        case PythonDatasetConfig():
            return "yield rows with other labels, or set `labeled` of the source to False to skip relevance metrics"
        case FolderDatasetConfig(labels="folder"):
            return "set dataset.path to the parent folder, " + unlabel.format("dataset.labels=none")
        case KaggleDatasetConfig(labels="folder"):
            return "correct dataset.subdir or dataset.label_depth, " + unlabel.format("dataset.labels=none")
        case WebDatasetConfig(labels="folder" | "cls"):
            return "add shards with other labels, " + unlabel.format("dataset.labels=none")
        case ImageFolderConfig() | WebDatasetConfig():
            return f"correct dataset.label_column (now {dataset.label_column}), " + unlabel.format("dataset.labels=none")
        case ColumnsConfig():
            return f"correct dataset.label_column (now {dataset.label_column}), " + unlabel.format("dataset.label_column=null")
    return "add items with other labels"
