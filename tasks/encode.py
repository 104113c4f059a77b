"""Encode: a vector for every content that the embedding store lacks for this encoder, and for no other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from prefect import task

from configs.models import EncoderConfig
from storage import tables
from storage.digests import content_digest, json_digest
from storage.embeddings import EmbeddingStore
from storage.errors import IndexmillError, InputError, SourceChanged
from storage.records import EmbeddingSet, SplitDataset
from storage.root import Root
from tasks.checks.images import UNLIMITED, UnreadableImage, read_image
from tasks.encoders import Encoder, identify, load_encoder
from tasks.encoders.encoding import encode_batches
from tasks.policy import REMEMBERED, RETRIED, StageCache
from tasks.progress import Advance, track

Row = dict[str, Any]


@task(name="encode", cache_policy=StageCache(stage_version=1), **RETRIED, **REMEMBERED)
def encode(root: Root, split: SplitDataset, config: EncoderConfig, fingerprint: str) -> EmbeddingSet:
    """The embedding store completed for these items. Each part of `shard_rows` vectors is committed as it is done."""
    items = root.file(split.table)
    store = EmbeddingStore(root, fingerprint)
    with store.lease():
        store.drop_damaged()
        missing = store.count_missing(items)
        if missing:
            encoder = _load(config, split)
            with track("encoding", missing) as advance, store.missing(items) as batches:
                for rows in _chunks(batches, config.shard_rows):
                    vectors = _vectors(encoder, rows, split.base, advance)
                    store.add_vectors([row["item_id"] for row in rows], [row["content_digest"] for row in rows], vectors)
        distinct = tables.rows(f"SELECT count(DISTINCT content_digest) FROM {tables.parquet(items)}", spill=root.tmp)[0][0]
        return EmbeddingSet(
            digest=json_digest([fingerprint, split.content]), files=(split.table, *store.refs(items)), split=split.digest,
            fingerprint=fingerprint, encoder=identify(config).details, dim=store.dim, database=split.database, query=split.query,
            encoded=missing, reused=distinct - missing, items=split.table,
        )  # fmt: skip


def _load(config: EncoderConfig, split: SplitDataset) -> Encoder:
    with track("loading the model", 1) as advance:
        encoder = load_encoder(config)
        advance(1)
    if encoder.modality != split.modality:
        raise InputError(
            f"this encoder takes {encoder.modality}s, and the data set has {split.modality}s",
            where="encoder.kind",
            got=config.kind,
            next_step="choose sentence-transformers for texts, efficientnet-lite, timm or open-clip for images",
        )
    return encoder


def _chunks(batches: Iterator[Any], size: int) -> Iterator[list[Row]]:
    """Rows in lists of `size`: what one part will hold. Ordered by digest, so a run that resumes cuts them at the same places."""
    rows: list[Row] = []
    for batch in batches:
        rows += batch.to_pylist()
        while len(rows) >= size:
            yield rows[:size]
            del rows[:size]
    if rows:
        yield rows


def _vectors(encoder: Encoder, rows: list[Row], base: str | None, advance: Advance) -> np.ndarray:
    """float32 (n, dim). Of images, two windows at the model's own size are held, never a whole part."""
    if base is None:
        vectors = encode_batches(encoder, [encoder.prepare(row["text"]) for row in rows], advance).vectors
    else:
        windows = _prepared(encoder, rows, Path(base))
        vectors = np.concatenate([encode_batches(encoder, window, advance).vectors for window in windows])
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        row = rows[int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])]
        raise IndexmillError(
            "the encoder gave a vector that cannot be searched",
            where=f"item {row['path'] or row['text'][:80]!r}",
            expected="finite numbers, not all zero",
            next_step="take the item out of the source; other encoders may take it",
        )
    return vectors


def _prepared(encoder: Encoder, rows: list[Row], base: Path) -> Iterator[list[Any]]:
    """The images of the rows, opened and prepared, a window at a time. The next is under way while the caller works on the last."""
    ahead: deque[list[Future[Any]]] = deque()
    size = encoder.window
    with ThreadPoolExecutor(2) as openers:
        for start in range(0, len(rows), size):
            ahead.append([openers.submit(_open, encoder, base / row["path"], row) for row in rows[start : start + size]])
            if len(ahead) > 1:
                yield [image.result() for image in ahead.popleft()]
        for images in ahead:
            yield [image.result() for image in images]


def _open(encoder: Encoder, path: Path, row: Row) -> Any:
    try:
        content = path.read_bytes()
        if content_digest(content) == row["content_digest"]:
            return encoder.prepare(read_image(content, UNLIMITED))
    except (OSError, UnreadableImage):
        pass
    raise SourceChanged("an image changed while the build was running", where=str(path), next_step="run the build again")
