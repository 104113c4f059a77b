"""Encode: compute a vector for every content that the embedding store lacks for this encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prefect import task

from indexmill.configs.encoders import EncoderConfig
from indexmill.storage.device_profiles import DeviceProfile, load_device_profile, save_device_profile
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import EmbeddingStore
from indexmill.storage.errors import InputError
from indexmill.storage.records import EmbeddingSet, EncodedQueries, Modality, Precision, QueryTable, Role, SplitDataset, StoredVectors
from indexmill.storage.root import Root
from indexmill.tasks.encoding import EncoderIdentity, check_dimensions
from indexmill.tasks.encoding.chunked_items import gather_items
from indexmill.tasks.encoding.device import get_device_name
from indexmill.tasks.encoding.encoder_pool import EncoderPool, make_local_pool
from indexmill.tasks.encoding.fill_store import EncodeRequest, encodes_captions, fill_store, open_captions, partition_items
from indexmill.tasks.encoding.onnx_export import ExportRequest, ensure_onnx_export
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
    """Fill the embedding store for these items, and one for the captions of images if the encoder takes texts; then for queries.

    The encoder is also exported to ONNX, for serving (`ensure_onnx_export`).

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
    if split.modality not in identity.modalities:
        raise _build_modality_error(config, identity, split)
    for table in split.query_tables:
        if table.modality not in identity.modalities:
            raise _build_query_modality_error(config, identity, table)
    pool = make_local_pool(process)
    encoder = ModalityEncoder(root, process, split, config, identity, max_reject_fraction, runner, pool)
    with acquire_gpu_slot():
        try:
            embeddings = _encode_queries(encoder, _encode_all_modalities(encoder))
            for request in _list_exports(encoder, embeddings):
                ensure_onnx_export(root, process, request)
            return embeddings
        finally:
            pool.stop()


@task(**get_task_options("encode-chunk"))
def encode_chunk(process: EncoderProcess, job: EncodeChunk, advance: Advance) -> ChunkResult:
    """Encode one chunk into temporary files. Prefect runs it again if the encoding process is lost."""
    return process.encode(job, advance)


@dataclass(frozen=True)
class ModalityEncoder:
    """Encodes a split with one encoder, one modality and role at a time.

    The attributes are the arguments of `encode`, and the local processes.
    """

    root: Root
    process: EncoderProcess
    split: SplitDataset
    config: EncoderConfig
    identity: EncoderIdentity
    max_reject_fraction: float
    runner: Runner
    pool: EncoderPool

    def encode(self, modality: Modality, items: Path, role: Role = "document", *, image_root: str | None = None) -> EmbeddingSet:
        """Encode an items table.

        Args:
            modality: What to encode of the items.
            items: The items table.
            role: What the texts are encoded as. Queries have a prompt of their own, and a store of their own if that differs
                from the documents'. They run in the precision of the documents, if those were encoded first.
            image_root: The folder that image paths are relative to, for queries; that of the data set for documents.
        """
        if role == "document" and modality == "image":
            image_root = self.split.image_root
        profile = self._choose_profile(modality, items, image_root, role)
        precision: Precision = profile.precision or "float32"
        stored_identity, query_identity = (
            self.identity.for_role(name).for_store(modality, precision, self.config.storage_dtype) for name in (role, "query")
        )
        identity, query_identity = (entry.with_dimensions(self.config.dimensions) for entry in (stored_identity, query_identity))
        store = EmbeddingStore(self.root, stored_identity.fingerprint)
        if store.list_readable_parts():
            check_dimensions(self.config, store.dim)
        request = EncodeRequest(self.root, store, items, image_root, ModelSpec(self.config, precision, modality, role), profile)
        with store.lease(), self.root.scratch.staging() as staging:
            failed_path = staging / "failed.parquet"
            result = fill_store(request, failed_path, self.runner, self._run_chunk, gpus=len(self.pool.processes))
            if role == "query":  # queries are short, so their rate says nothing about the next build's documents
                result = replace(result, profile=result.profile.model_copy(update={"rates": profile.rates}))
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
                dim=self.config.dimensions or store.dim,
                database=partition.database_count,
                query=partition.query_count,
                encoded=result.encoded,
                reused=max(0, partition.distinct_contents - result.encoded),
                rejected=partition.rejected_count,
                truncated=store.count_truncated(table),
                items=partition.items,
                rejects=partition.rejects,
                prompts=self.identity.prompts,
                query_fingerprint="" if query_identity.fingerprint == identity.fingerprint else query_identity.fingerprint,
                stored=self._describe_stored_vectors(store, stored_identity),
            )

    def _describe_stored_vectors(self, store: EmbeddingStore, identity: EncoderIdentity) -> StoredVectors | None:
        """Describe the store's whole vectors, if only their beginnings are used."""
        if self.config.dimensions is None:
            return None
        return StoredVectors(fingerprint=identity.fingerprint, dim=store.dim, normalize=self.config.normalize)

    def _run_chunk(self, job: EncodeChunk, advance: Advance) -> ChunkResult:
        with self.pool.borrow() as process:
            return encode_chunk(process, job, advance)

    def _choose_profile(self, modality: Modality, items: Path, image_root: str | None, role: Role) -> DeviceProfile:
        """Load the device profile, with the precision to use."""
        profile = load_device_profile(self.root, self.identity.fingerprint, modality, get_device_name())
        if self.config.precision != "auto":
            return profile.model_copy(update={"precision": self.config.precision, "check": None})
        if role == "query" and profile.precision is not None:
            return profile
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
    if split.chunks:
        chunks = encoder.encode("text", root.file(split.chunks.table))
        return gather_items(root, split, chunks)
    embeddings = encoder.encode(split.modality, root.file(split.table))
    if not encodes_captions(encoder.identity, split.modality):
        return embeddings
    with open_captions(root, root.file(embeddings.items)) as captions_path:
        if captions_path is None:
            return embeddings
        captions = encoder.encode("text", captions_path)
    digest = json_digest([embeddings.digest, captions.digest])
    return embeddings.model_copy(update={"digest": digest, "files": (*embeddings.files, *captions.files), "captions": captions})


def _encode_queries(encoder: ModalityEncoder, embeddings: EmbeddingSet) -> EmbeddingSet:
    """Encode the queries of one's own, set by set. Each set has an items table of its own, all on the query side."""
    if not encoder.split.query_tables:
        return embeddings
    query_sets = []
    for table in encoder.split.query_tables:
        encoded = encoder.encode(table.modality, encoder.root.file(table.table), "query", image_root=table.image_root)
        counts = table.counts | {"queries": encoded.query, "queries_rejected": table.counts["queries_rejected"] + encoded.rejected}
        query_sets.append(
            EncodedQueries(
                name=table.name,
                embeddings=encoded,
                image_root=table.image_root,
                judgements=table.judgements,
                is_pairs=table.is_pairs,
                counts=counts,
            )
        )
    described = [[entry.name, entry.embeddings.digest, entry.judgements and entry.judgements.sha256, entry.counts] for entry in query_sets]
    query_files = [ref for entry in query_sets for ref in (*entry.embeddings.files, *((entry.judgements,) if entry.judgements else ()))]
    files = (*embeddings.files, *(ref for ref in dict.fromkeys(query_files) if ref not in embeddings.files))
    update = {"query_sets": tuple(query_sets), "items_digest": embeddings.digest, "items_files": len(embeddings.files)}
    return embeddings.model_copy(update={"digest": json_digest([embeddings.digest, described]), "files": files, **update})


def _list_exports(encoder: ModalityEncoder, embeddings: EmbeddingSet) -> list[ExportRequest]:
    """List the modalities to export, each with the items that the export is compared on. Images can only be the build's own."""
    items: dict[Modality, tuple[Path | None, str | None]] = {"text": (None, None)}
    for query_set in embeddings.query_sets:
        items[query_set.embeddings.modality] = encoder.root.file(query_set.embeddings.items), query_set.image_root
    if embeddings.captions:
        items["text"] = encoder.root.file(embeddings.captions.items), None
    items[embeddings.modality] = encoder.root.file(embeddings.indexed_vectors.items), encoder.split.image_root
    return [
        ExportRequest(
            config=encoder.config,
            fingerprint=encoder.identity.for_export(modality).fingerprint,
            modality=modality,
            items=items[modality][0],
            image_root=items[modality][1] if modality == "image" else None,
        )
        for modality in encoder.identity.modalities
        if modality in items
    ]


def _describe_precision_check(profile: DeviceProfile) -> dict[str, object]:
    """Describe the check that the precision is based on, for the manifest."""
    return {"precision_check": profile.check.model_dump() | {"device": profile.device}} if profile.check else {}


def _build_modality_error(config: EncoderConfig, identity: EncoderIdentity, split: SplitDataset) -> InputError:
    supported = " and ".join(f"{modality}s" for modality in identity.modalities)
    return InputError(
        f"this encoder takes {supported}, but the data set has {split.modality}s",
        where="encoder.kind",
        got=config.kind,
        next_step="choose sentence-transformers for texts, efficientnet-lite, timm or open-clip for images",
    )


def _build_query_modality_error(config: EncoderConfig, identity: EncoderIdentity, table: QueryTable) -> InputError:
    supported = " and ".join(f"{modality}s" for modality in identity.modalities)
    return InputError(
        f"this encoder takes {supported}, but the queries are {table.modality}s",
        where="encoder.kind",
        got=config.kind,
        next_step="choose open-clip for images and texts together, or other queries",
    )
