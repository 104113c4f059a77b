"""What can be refused before the slow work begins."""

from __future__ import annotations

from indexmill.configs.encoders import EncoderConfig
from indexmill.configs.models import PipelineConfig
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.encoding import MODALITIES_BY_KIND, EncoderIdentity, identify
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ModelSpec
from indexmill.tasks.gpu_slot import acquire_gpu_slot
from indexmill.tasks.indexing.factory import check_factory, min_training_items
from indexmill.tasks.progress import track


def check_encoder(config: EncoderConfig, root: Root, process: EncoderProcess) -> EncoderIdentity:
    """The encoder's identity in float32. One that never encoded under this root is loaded, to see that its weights are its own.

    Raises InputError for weights that are not there, not the expected ones, or of another architecture.
    """
    identity = identify(config)
    if not root.encoder(identity.fingerprint).is_dir():
        with acquire_gpu_slot() as is_shared, track("loading the model", 1) as advance:
            process.check_model(ModelSpec(config, "float32", MODALITIES_BY_KIND[config.kind][0]))
            if is_shared:
                process.stop()  # nothing stays on a device between turns
            advance(1)
    return identity


def check_sizes(config: PipelineConfig, split: SplitDataset) -> None:
    """Raise InputError where the items are too few for the cut-offs or the factory, or their labels say nothing."""
    ks, factory = config.evaluation.k, config.index.factory
    sides = f"{split.database} on the database side, {split.query} on the query side"
    if split.labeled and split.labels == 1:
        raise InputError(
            "all items have one label, so every result would count as relevant",
            where=f"dataset of {config.name}" + (f": {split.image_root}" if split.image_root else ""),
            expected="at least 2 labels (sub-folders)",
            got=f"1 label over {split.database + split.query} items",
            next_step="name the folder above as dataset.path, or --set dataset.labels=none to leave relevance out",
        )
    if split.database < max(ks):
        fitting = [k for k in ks if k <= split.database] or [1]
        raise InputError(
            "there are fewer items than evaluation.k asks for",
            where=f"evaluation.k = {list(ks)}",
            expected=f"at least {max(ks)} items on the database side",
            got=sides,
            next_step=f"add items, or --set evaluation.k={fitting}".replace(" [", "[").replace(", ", ","),
        )
    if split.database < min_training_items(factory):
        raise InputError(
            "there are fewer items than the factory has lists or centroids",
            where=f"index.factory = {factory}",
            expected=f"at least {min_training_items(factory)} items on the database side",
            got=sides,
            next_step="add items, or --set index.factory=Flat",
        )
    if not split.query and config.split.mode != "none":
        raise InputError(
            "no item fell on the query side, so nothing can be measured",
            where=f"split.mode = {config.split.mode}",
            expected="at least 1 query",
            got=sides,
            next_step="add items, raise split.query_fraction, or --set split.mode=none to publish unmeasured",
        )


def get_index_embeddings(config: PipelineConfig, embeddings: EmbeddingSet) -> EmbeddingSet:
    """The vectors that the index holds. Raises InputError when there are none of them, or of those that it is to be asked with."""
    try:
        embeddings.for_modality(config.evaluation.query_modality)
        return embeddings.for_modality(config.index.modality)
    except KeyError as wanted:
        raise InputError(
            f"there are no vectors of {wanted.args[0]}s",
            where=f"index.modality = {config.index.modality}, evaluation.query_modality = {config.evaluation.query_modality}",
            expected="images with captions, and an encoder of both (open-clip)",
            got=f"{embeddings.modality}s, {config.encoder.kind}",
            next_step="mend dataset.captions (folders) or dataset.text_column (tables), or leave both keys out",
        ) from None


__all__ = ["check_encoder", "check_factory", "check_sizes", "get_index_embeddings"]
