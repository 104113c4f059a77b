"""Chunk: divide texts into chunks that the encoder sees as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
from prefect import task

from indexmill.configs.datasets import ChunkConfig
from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.errors import InputError
from indexmill.storage.records import ChunkTable, SplitDataset
from indexmill.storage.root import Root
from indexmill.tasks.encoding.chunk_table import CHUNK_SCHEMA, iterate_chunks, make_limits
from indexmill.tasks.encoding.tokenizer import load_document_tokenizer
from indexmill.tasks.progress import Advance, track
from indexmill.tasks.stage_policy import get_task_options


@task(**get_task_options("chunk"))
def chunk(root: Root, split: SplitDataset, config: ChunkConfig, encoder: EncoderConfig, fingerprint: str) -> SplitDataset:  # noqa: ARG001
    """Write a table of chunks beside that of the items, and return the data set with both.

    Args:
        root: The storage root.
        split: The items.
        config: The size of chunks.
        encoder: The encoder, whose tokenizer counts.
        fingerprint: The encoder's fingerprint, which covers the tokenizer and the document prompt; part of the cache key.

    Raises:
        InputError: The items are images, the encoder has no fast tokenizer, or chunks are larger than its context.
    """
    if split.modality != "text":
        raise InputError(
            "only texts can be divided into chunks",
            where="dataset.chunk",
            expected="a data set of texts",
            got=f"{split.modality}s",
            next_step="remove dataset.chunk",
        )
    tokenizer = load_document_tokenizer(encoder)
    limits = make_limits(config, tokenizer)
    items = root.file(split.table)
    with root.scratch.staging() as staging, track("dividing texts", split.database + split.query) as advance:
        unsorted, table = staging / "unsorted.parquet", staging / "chunks.parquet"
        batches = _track_rows(parquet.read_batches(items), advance)
        parquet.write_parquet(unsorted, CHUNK_SCHEMA, iterate_chunks(batches, tokenizer.tokenizer, limits))
        parquet.copy_query(f"FROM {parquet.scan_sql(unsorted)} ORDER BY item_id", table, temp_dir=root.tmp)
        counts = "SELECT count(*), count(DISTINCT item_id), count(*) FILTER (chunk = 1)"
        chunks, ids, divided = parquet.fetch_rows(f"{counts} FROM {parquet.scan_sql(table)}", temp_dir=root.tmp)[0]
        if ids != chunks:
            raise InputError("two chunks have the same id", where=f"dataset of {split.name}", next_step="change dataset.chunk.tokens")
        digest = json_digest([split.digest, parquet.compute_digest(table)])
        path = root.dataset(split.name, "chunk", digest) / table.name
        root.commit(table, path)
    ref = root.make_ref(path)
    chunk_table = ChunkTable(table=ref, chunks=chunks, items=divided, context=tokenizer.context)
    return split.model_copy(update={"digest": digest, "files": (*split.files, ref), "chunks": chunk_table})


def _track_rows(batches: Iterator[pa.RecordBatch], advance: Advance) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        advance(batch.num_rows)
