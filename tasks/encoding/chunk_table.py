"""The table of chunks: a row for each chunk with the columns of an items table, its item and its position there.

The id of a chunk depends on its item and its text alone, so a chunk that stays the same keeps its id, its vector and its place
in the index when the rest of the text changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexmill.configs.datasets import ChunkConfig
from indexmill.configs.encoders import EncoderConfig
from indexmill.storage import parquet
from indexmill.storage.digests import content_digest, item_id
from indexmill.storage.errors import InputError
from indexmill.storage.items_table import SIDED_COLUMNS
from indexmill.storage.records import ChunkEstimate
from indexmill.tasks.encoding.text_chunks import ChunkLimits, divide_texts
from indexmill.tasks.encoding.tokenizer import DocumentTokenizer, load_document_tokenizer

CHUNK_SCHEMA = pa.schema(SIDED_COLUMNS | {"leak": pa.bool_(), "parent_id": pa.int64(), "chunk": pa.int32()})
TEXTS_AT_ONCE = 256
ESTIMATE_TEXTS, ESTIMATE_CHARACTERS = 10_000, 10_000_000  # the most that an estimate divides: a few seconds
OVERLAP_FRACTION = 8  # an estimate assumes an overlap of an eighth of the context


def make_limits(config: ChunkConfig, tokenizer: DocumentTokenizer) -> ChunkLimits:
    """Return the limits for the text alone, without special tokens and prompt.

    Raises:
        InputError: Chunks are larger than the encoder's context, or leave no room beside the overlap.
    """
    if tokenizer.context is not None and config.tokens > tokenizer.context:
        raise InputError(
            "chunks are larger than the encoder's context, so they would be cut too",
            where=f"dataset.chunk.tokens = {config.tokens}",
            expected=f"at most {tokenizer.context}",
            got=str(config.tokens),
            next_step=f"set dataset.chunk.tokens to {tokenizer.context} or less",
        )
    tokens = config.tokens - tokenizer.overhead
    if tokens <= config.overlap:
        raise InputError(
            "chunks have no room for a text beside the overlap, the special tokens and the document prompt",
            where=f"dataset.chunk: tokens = {config.tokens}, overlap = {config.overlap}",
            expected=f"more than {config.overlap + tokenizer.overhead} tokens",
            got=str(config.tokens),
            next_step="raise dataset.chunk.tokens, or lower dataset.chunk.overlap",
        )
    return ChunkLimits(tokens, config.overlap)


def iterate_chunks(batches: Iterable[pa.RecordBatch], tokenizer: Any, limits: ChunkLimits) -> Iterator[pa.RecordBatch]:
    """Divide the texts of an items table. Yields batches of CHUNK_SCHEMA in the order of the items."""
    for batch in batches:
        for start in range(0, batch.num_rows, TEXTS_AT_ONCE):
            rows = batch.slice(start, TEXTS_AT_ONCE).to_pylist()
            divided = divide_texts(tokenizer, [row["text"] for row in rows], limits)
            chunks = [chunk for row, texts in zip(rows, divided, strict=True) for chunk in _make_rows(row, texts)]
            yield pa.RecordBatch.from_pylist(chunks, schema=CHUNK_SCHEMA)


def estimate_chunks(items: Path, tokenizer: DocumentTokenizer, *, temp_dir: Path) -> ChunkEstimate | None:
    """Estimate what dividing the texts at the encoder's context would give, from a sample; None if the encoder sees any length."""
    if tokenizer.context is None or tokenizer.context <= 2 * tokenizer.overhead:
        return None
    overlap = tokenizer.context // OVERLAP_FRACTION
    limits = make_limits(ChunkConfig(tokens=tokenizer.context, overlap=overlap), tokenizer)
    total = int(parquet.fetch_rows(f"SELECT count(*) FROM {parquet.scan_sql(items)}", temp_dir=temp_dir)[0][0])
    table = parquet.scan_sql(items)
    sample = f"SELECT text, length(text) AS size FROM {table} ORDER BY md5(content_digest), item_id LIMIT {ESTIMATE_TEXTS}"
    totals = f"SELECT text, sum(size) OVER (ROWS UNBOUNDED PRECEDING) AS total FROM ({sample})"
    sql = f"SELECT text FROM ({totals}) WHERE total <= {ESTIMATE_CHARACTERS}"
    sampled, cut, chunks = 0, 0, 0
    with parquet.query(sql, temp_dir=temp_dir) as batches:
        for batch in batches:
            for texts in divide_texts(tokenizer.tokenizer, batch.column("text").to_pylist(), limits):
                sampled, cut, chunks = sampled + 1, cut + (len(texts) > 1), chunks + len(texts)
    scale = total / max(sampled, 1)
    return ChunkEstimate(
        texts=total,
        cut=round(cut * scale),
        chunks=round(chunks * scale),
        tokens=tokenizer.context,
        overlap=overlap,
        sampled=sampled,
    )


def find_chunk_estimate(config: EncoderConfig, items: Path, *, temp_dir: Path) -> ChunkEstimate | None:
    """Estimate as `estimate_chunks` does; None if the encoder's texts cannot be divided."""
    try:
        tokenizer = load_document_tokenizer(config)
    except InputError:
        return None
    return estimate_chunks(items, tokenizer, temp_dir=temp_dir)


def _make_rows(item: dict[str, Any], texts: list[str]) -> Iterator[dict[str, Any]]:
    seen: dict[str, int] = {}
    for number, text in enumerate(texts):
        digest = content_digest(text.encode())
        occurrence = seen[digest] = seen.get(digest, -1) + 1
        chunk_id = item_id(f"{item['item_id']}/{digest}/{occurrence}")
        yield item | {"item_id": chunk_id, "text": text, "content_digest": digest, "parent_id": item["item_id"], "chunk": number}
