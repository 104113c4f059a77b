"""Encode: a vector for every content that the embedding store lacks for this encoder, and for no other."""

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
from indexmill.tasks.encoding.fill_store import EncodeRequest, fill_store, partition_items, write_captions
from indexmill.tasks.encoding.precision import choose_precision
from indexmill.tasks.encoding.process import EncoderProcess
from indexmill.tasks.encoding.protocol import ChunkResult, ComparePrecision, EncodeChunk, ModelSpec, PrecisionComparison
from indexmill.tasks.gpu_slot import acquire_gpu_slot
from indexmill.tasks.progress import Advance, track
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("encode"))
def encode(
    root: Root, process: EncoderProcess, split: SplitDataset, config: EncoderConfig, identity: EncoderIdentity, max_reject_fraction: float
) -> EmbeddingSet:
    """The embedding store completed for these items, and a second one for the captions of images where the encoder takes texts too.

    process: does the encoding, and is ended with the stage, so that what it took of memory is there for the next. identity: the encoder's,
    in float32. max_reject_fraction: past this share of items without a vector the stage stops.
    """
    if split.modality not in MODALITIES_BY_KIND[config.kind]:
        raise _build_modality_error(config, split)
    with acquire_gpu_slot():
        try:
            return _encode_all_modalities(root, ModalityEncoder(root, process, split, config, identity, max_reject_fraction))
        finally:
            process.stop()


def _encode_all_modalities(root: Root, modality_encoder: ModalityEncoder) -> EmbeddingSet:
    split = modality_encoder.split
    found = modality_encoder.encoded(split.modality, root.file(split.table))
    if split.modality == "text" or "text" not in MODALITIES_BY_KIND[modality_encoder.config.kind]:
        return found
    with root.scratch.staging() as staging:
        if not write_captions(root.file(found.items), staging / "captions.parquet"):
            return found
        captions = modality_encoder.encoded("text", staging / "captions.parquet")
    both = {"digest": json_digest([found.digest, captions.digest]), "files": (*found.files, *captions.files), "captions": captions}
    return found.model_copy(update=both)


@task(**get_task_options("encode-chunk"))
def encode_chunk(process: EncoderProcess, job: EncodeChunk, advance: Advance) -> ChunkResult:
    """One planned shard as files that nobody sees before they are whole; done again when the encoding process is lost."""
    return process.encode(job, advance)


@dataclass(frozen=True)
class ModalityEncoder:
    """One encoder at work on one split; which of its sides, the images' or the texts', is asked of `encoded`. budget: as encode's."""

    root: Root
    process: EncoderProcess
    split: SplitDataset
    config: EncoderConfig
    identity: EncoderIdentity
    max_reject_fraction: float

    def encoded(self, modality: Modality, items: Path) -> EmbeddingSet:
        """The set of vectors of an items table by the side for `modality`."""
        image_root = self.split.image_root if modality == "image" else None
        profile = self._choose_profile(modality, items, image_root)
        precision: Precision = profile.precision or "float32"
        identity = self.identity.for_store(modality, precision, self.config.storage_dtype)
        store = EmbeddingStore(self.root, identity.fingerprint)
        request = EncodeRequest(self.root, store, items, image_root, ModelSpec(self.config, precision, modality), profile)
        with store.lease(), self.root.scratch.staging() as staging:
            failed = staging / "failed.parquet"
            encoded, new_profile = fill_store(request, self.config, failed, lambda job, advance: encode_chunk(self.process, job, advance))
            self._save_profile(modality, new_profile)
            partition = partition_items(self.root, self.split.name, items, store, failed, self.max_reject_fraction)
            table = self.root.file(partition.items)
            refs = tuple(ref for ref in (partition.items, partition.rejects) if ref)
            return EmbeddingSet(
                digest=json_digest([identity.fingerprint, partition.items_digest]), files=(*refs, *store.find_refs(table)), split=self.split.digest,
                modality=modality, fingerprint=identity.fingerprint, encoder=identity.details | _describe_precision_check(profile), dim=store.dim,
                database=partition.database, query=partition.query, encoded=encoded, reused=max(0, partition.distinct_contents - encoded),
                rejected=partition.rejected, truncated=store.count_truncated(table), items=partition.items, rejects=partition.rejects,
            )  # fmt: skip

    def _save_profile(self, modality: Modality, new_profile: DeviceProfile) -> None:
        """Keep what was learnt. A precision that the config names says nothing about what `auto` should mean."""
        if self.config.precision != "auto":
            before = load_device_profile(self.root, self.identity.fingerprint, modality, new_profile.device)
            new_profile = new_profile.model_copy(update={"precision": before.precision, "check": before.check})
        save_device_profile(self.root, self.identity.fingerprint, modality, new_profile)

    def _choose_profile(self, modality: Modality, items: Path, image_root: str | None) -> DeviceProfile:
        """What is known of this device, with the precision to take."""
        profile = load_device_profile(self.root, self.identity.fingerprint, modality, get_device_name())
        if self.config.precision != "auto":
            return profile.model_copy(update={"precision": self.config.precision, "check": None})

        def missing(precision: Precision) -> int:
            return EmbeddingStore(
                self.root, self.identity.for_store(modality, precision, self.config.storage_dtype).fingerprint
            ).count_missing(items)

        def compare(sample: Path) -> PrecisionComparison:
            with track("checking the fast precision", 1) as advance:
                found = self.process.compare(ComparePrecision(ModelSpec(self.config, "float32", modality), str(sample), image_root))
                advance(1)
            return found

        return choose_precision(self.root, items, profile, missing, compare)


def _describe_precision_check(profile: DeviceProfile) -> dict[str, object]:
    """The check that the precision rests on, for the manifest."""
    return {"precision_check": profile.check.model_dump() | {"device": profile.device}} if profile.check else {}


def _build_modality_error(config: EncoderConfig, split: SplitDataset) -> InputError:
    taken = " and ".join(f"{modality}s" for modality in MODALITIES_BY_KIND[config.kind])
    return InputError(
        f"this encoder takes {taken}, and the data set has {split.modality}s",
        where="encoder.kind",
        got=config.kind,
        next_step="choose sentence-transformers for texts, efficientnet-lite, timm or open-clip for images",
    )
