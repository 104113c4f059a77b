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
from indexmill.tasks.policy import options
from indexmill.tasks.progress import Advance, track
from indexmill.tasks.turns import device_turn


@task(**options("encode"))
def encode(
    root: Root, process: EncoderProcess, split: SplitDataset, config: EncoderConfig, identity: EncoderIdentity, max_reject_fraction: float
) -> EmbeddingSet:
    """The embedding store completed for these items, and a second one for the captions of images where the encoder takes texts too.

    process: does the encoding, and is ended with the stage, so that what it took of memory is there for the next. identity: the encoder's,
    in float32. max_reject_fraction: past this share of items without a vector the stage stops.
    """
    if split.modality not in MODALITIES_BY_KIND[config.kind]:
        raise _wrong_kind(config, split)
    with device_turn():
        try:
            return _both_sides(root, Side(root, process, split, config, identity, max_reject_fraction))
        finally:
            process.stop()


def _both_sides(root: Root, side: Side) -> EmbeddingSet:
    split = side.split
    found = side.encoded(split.modality, root.file(split.table))
    if split.modality == "text" or "text" not in MODALITIES_BY_KIND[side.config.kind]:
        return found
    with root.scratch.staging() as staging:
        if not write_captions(root.file(found.items), staging / "captions.parquet"):
            return found
        captions = side.encoded("text", staging / "captions.parquet")
    both = {"digest": json_digest([found.digest, captions.digest]), "files": (*found.files, *captions.files), "captions": captions}
    return found.model_copy(update=both)


@task(**options("encode-shard"))
def encode_chunk(process: EncoderProcess, job: EncodeChunk, advance: Advance) -> ChunkResult:
    """One planned shard as files that nobody sees before they are whole; done again when the encoding process is lost."""
    return process.encode(job, advance)


@dataclass(frozen=True)
class Side:
    """One encoder at work on one split; which of its sides, the images' or the texts', is asked of `encoded`. budget: as encode's."""

    root: Root
    process: EncoderProcess
    split: SplitDataset
    config: EncoderConfig
    identity: EncoderIdentity
    budget: float

    def encoded(self, modality: Modality, items: Path) -> EmbeddingSet:
        """The set of vectors of an items table by the side for `modality`."""
        image_root = self.split.image_root if modality == "image" else None
        known = self._settled(modality, items, image_root)
        precision: Precision = known.precision or "float32"
        identity = self.identity.for_store(modality, precision, self.config.storage_dtype)
        store = EmbeddingStore(self.root, identity.fingerprint)
        work = EncodeRequest(self.root, store, items, image_root, ModelSpec(self.config, precision, modality), known)
        with store.lease(), self.root.scratch.staging() as staging:
            failed = staging / "failed.parquet"
            encoded, learnt = fill_store(work, self.config, failed, lambda job, advance: encode_chunk(self.process, job, advance))
            self._remember(modality, learnt)
            outcome = partition_items(self.root, self.split.name, items, store, failed, self.budget)
            table = self.root.file(outcome.items)
            refs = tuple(ref for ref in (outcome.items, outcome.rejects) if ref)
            return EmbeddingSet(
                digest=json_digest([identity.fingerprint, outcome.items_digest]), files=(*refs, *store.refs(table)), split=self.split.digest,
                modality=modality, fingerprint=identity.fingerprint, encoder=identity.details | _checked(known), dim=store.dim,
                database=outcome.database, query=outcome.query, encoded=encoded, reused=max(0, outcome.distinct_contents - encoded),
                rejected=outcome.rejected, truncated=store.count_truncated(table), items=outcome.items, rejects=outcome.rejects,
            )  # fmt: skip

    def _remember(self, modality: Modality, learnt: DeviceProfile) -> None:
        """Keep what was learnt. A precision that the config names says nothing about what `auto` should mean."""
        if self.config.precision != "auto":
            before = load_device_profile(self.root, self.identity.fingerprint, modality, learnt.device)
            learnt = learnt.model_copy(update={"precision": before.precision, "check": before.check})
        save_device_profile(self.root, self.identity.fingerprint, modality, learnt)

    def _settled(self, modality: Modality, items: Path, image_root: str | None) -> DeviceProfile:
        """What is known of this device, with the precision to take."""
        known = load_device_profile(self.root, self.identity.fingerprint, modality, get_device_name())
        if self.config.precision != "auto":
            return known.model_copy(update={"precision": self.config.precision, "check": None})

        def missing(precision: Precision) -> int:
            return EmbeddingStore(
                self.root, self.identity.for_store(modality, precision, self.config.storage_dtype).fingerprint
            ).count_missing(items)

        def compare(sample: Path) -> PrecisionComparison:
            with track("checking the fast precision", 1) as advance:
                found = self.process.compare(ComparePrecision(ModelSpec(self.config, "float32", modality), str(sample), image_root))
                advance(1)
            return found

        return choose_precision(self.root, items, known, missing, compare)


def _checked(known: DeviceProfile) -> dict[str, object]:
    """The check that the precision rests on, for the manifest."""
    return {"precision_check": known.check.model_dump() | {"device": known.device}} if known.check else {}


def _wrong_kind(config: EncoderConfig, split: SplitDataset) -> InputError:
    taken = " and ".join(f"{modality}s" for modality in MODALITIES_BY_KIND[config.kind])
    return InputError(
        f"this encoder takes {taken}, and the data set has {split.modality}s",
        where="encoder.kind",
        got=config.kind,
        next_step="choose sentence-transformers for texts, efficientnet-lite, timm or open-clip for images",
    )
