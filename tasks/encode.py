"""Encode: compute a vector for every content that the embedding store lacks for this encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect import task

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.device_profiles import DeviceProfile, load_device_profile, save_device_profile
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet, Modality, Precision, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.encoding import MODALITIES_BY_KIND, EncoderIdentity
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.encoder_pool import EncoderPool, make_local_pool
from indexmill.tasks.encoding.fill_store import EncodeRequest, encodes_captions, fill_store, open_captions, partition_items
from indexmill.tasks.encoding.onnx import ensure_onnx_export
from indexmill.tasks.encoding.precision import PrecisionRequest, choose_precision
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ChunkResult, EncodeChunk, ModelSpec
from indexmill.tasks.gpu_slot import acquire_gpu_slot
from indexmill.tasks.progress import Advance
from indexmill.tasks.runner import LOCAL_RUNNER, Runner
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("encode"))
def encode(
    root: Root,
    process: EncoderProcess,
    split: SplitDataset,
    config: EncoderConfig,
    identity: EncoderIdentity,
    max_reject_fraction: float,
    runner: Runner = LOCAL_RUNNER,
) -> EmbeddingSet:
    """Fill the embedding store for these items, and one for the captions of images if the encoder takes texts.

    A text encoder is also exported to ONNX, for serving (`ensure_onnx_export`).

    Args:
        root: The storage root.
        process: The encoding process. It is stopped at the end of the stage, to free its memory for the next ones.
        split: The items.
        config: The encoder.
        identity: The encoder's identity, in float32.
        max_reject_fraction: The largest share of items without a vector.
        runner: Runs the encode jobs.

    Raises:
        InputError: The encoder does not take items of this modality, or too many items have no vector.
    """
    if split.modality not in MODALITIES_BY_KIND[config.kind]:
        raise _build_modality_error(config, split)
    pool = make_local_pool(process)
    encoder = ModalityEncoder(root, process, split, config, identity, max_reject_fraction, runner, pool)
    with acquire_gpu_slot():
        try:
            embeddings = _encode_all_modalities(encoder)
            if split.modality == "text":
                ensure_onnx_export(root, process, config, fingerprint=identity.fingerprint, items=root.file(embeddings.items))
            return embeddings
        finally:
            pool.stop()


@task(**get_task_options("encode-chunk"))
def encode_chunk(process: EncoderProcess, job: EncodeChunk, advance: Advance) -> ChunkResult:
    """Encode one chunk into temporary files. Prefect runs it again if the encoding process is lost."""
    return process.encode(job, advance)


@dataclass(frozen=True)
class ModalityEncoder:
    """Encodes a split with one encoder, one modality at a time. The attributes are the arguments of `encode`, and the local processes."""

    root: Root
    process: EncoderProcess
    split: SplitDataset
    config: EncoderConfig
    identity: EncoderIdentity
    max_reject_fraction: float
    runner: Runner
    pool: EncoderPool

    def encode(self, modality: Modality, items: Path) -> EmbeddingSet:
        """Encode an items table."""
        image_root = self.split.image_root if modality == "image" else None
        profile = self._choose_profile(modality, items, image_root)
        precision: Precision = profile.precision or "float32"
        identity = self.identity.for_store(modality, precision, self.config.storage_dtype)
        store = EmbeddingStore(self.root, identity.fingerprint)
        request = EncodeRequest(self.root, store, items, image_root, ModelSpec(self.config, precision, modality), profile)
        with store.lease(), self.root.scratch.staging() as staging:
            failed_path = staging / "failed.parquet"
            result = fill_store(request, failed_path, self.runner, self._run_chunk, gpus=len(self.pool.processes))
            self._save_profile(modality, result.profile)
            partition = partition_items(
                self.root, items, store, name=self.split.name, failed_path=failed_path, max_reject_fraction=self.max_reject_fraction
            )
            table = self.root.file(partition.items)
            refs = tuple(ref for ref in (partition.items, partition.rejects) if ref)
            return EmbeddingSet(
                digest=json_digest([identity.fingerprint, partition.items_digest]),
                files=(*refs, *store.find_refs(table)),
                split=self.split.digest,
                modality=modality,
                fingerprint=identity.fingerprint,
                encoder=identity.details | _describe_precision_check(profile),
                dim=store.dim,
                database=partition.database_count,
                query=partition.query_count,
                encoded=result.encoded,
                reused=max(0, partition.distinct_contents - result.encoded),
                rejected=partition.rejected_count,
                truncated=store.count_truncated(table),
                items=partition.items,
                rejects=partition.rejects,
            )

    def _run_chunk(self, job: EncodeChunk, advance: Advance) -> ChunkResult:
        with self.pool.borrow() as process:
            return encode_chunk(process, job, advance)

    def _choose_profile(self, modality: Modality, items: Path, image_root: str | None) -> DeviceProfile:
        """Load the device profile, with the precision to use."""
        profile = load_device_profile(self.root, self.identity.fingerprint, modality, get_device_name())
        if self.config.precision != "auto":
            return profile.model_copy(update={"precision": self.config.precision, "check": None})
        request = PrecisionRequest(config=self.config, identity=self.identity, modality=modality, items=items, image_root=image_root)
        return choose_precision(self.root, self.process, request, profile)

    def _save_profile(self, modality: Modality, profile: DeviceProfile) -> None:
        """Save what was measured. A precision that the config names must not become the choice of `auto`."""
        if self.config.precision != "auto":
            saved = load_device_profile(self.root, self.identity.fingerprint, modality, profile.device)
            profile = profile.model_copy(update={"precision": saved.precision, "check": saved.check})
        save_device_profile(self.root, self.identity.fingerprint, modality, profile)


def _encode_all_modalities(encoder: ModalityEncoder) -> EmbeddingSet:
    """Encode the items, and then the captions of the images that have a vector."""
    root, split = encoder.root, encoder.split
    embeddings = encoder.encode(split.modality, root.file(split.table))
    if not encodes_captions(encoder.config, split.modality):
        return embeddings
    with open_captions(root, root.file(embeddings.items)) as captions_path:
        if captions_path is None:
            return embeddings
        captions = encoder.encode("text", captions_path)
    digest = json_digest([embeddings.digest, captions.digest])
    return embeddings.model_copy(update={"digest": digest, "files": (*embeddings.files, *captions.files), "captions": captions})


def _describe_precision_check(profile: DeviceProfile) -> dict[str, object]:
    """Describe the check that the precision is based on, for the manifest."""
    return {"precision_check": profile.check.model_dump() | {"device": profile.device}} if profile.check else {}


def _build_modality_error(config: EncoderConfig, split: SplitDataset) -> InputError:
    supported = " and ".join(f"{modality}s" for modality in MODALITIES_BY_KIND[config.kind])
    return InputError(
        f"this encoder takes {supported}, but the data set has {split.modality}s",
        where="encoder.kind",
        got=config.kind,
        next_step="choose sentence-transformers for texts, efficientnet-lite, timm or open-clip for images",
    )
