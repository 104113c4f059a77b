"""Answer searches: prepare inputs in threads, then encode and search in shared micro-batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from indexmill.serve.http.batching import Batcher
from indexmill.serve.http.limits import Limits
from indexmill.serve.http.live import LiveIndex
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.http.problems import Problem
from indexmill.serve.http.requests import SearchOptions, SearchRequest
from indexmill.serve.index import OpenIndex, distance
from indexmill.serve.queries import read_query_vectors
from indexmill.storage.records import Modality
from indexmill.tasks.indexing.searcher import use_single_thread

SECOND_THREAD_MIN = 32  # queries for which a second thread is woken
SPLIT_MIN = 8  # queries at least, of a part of one request
MAX_CONCURRENT_DECODES = 2  # images: each may take megabytes while it is decoded


@dataclass
class EncodeJob:
    """Queries to be encoded by one index's encoder."""

    index: OpenIndex
    modality: Modality
    prepared: list[Any]


@dataclass
class SearchJob:
    """Vectors to be searched in one index."""

    index: OpenIndex
    queries: np.ndarray
    options: SearchOptions
    raw: bool = False  # wanted as they are: scores and ids


class Service:
    """The indexes that are served, and the two queues that all searches go through."""

    def __init__(self, indexes: dict[str, LiveIndex], limits: Limits, metrics: Metrics) -> None:
        self.indexes, self.limits, self.metrics = indexes, limits, metrics
        self._running = 0
        self._preparing = asyncio.Semaphore(MAX_CONCURRENT_DECODES)
        self._encoding: Batcher[EncodeJob, np.ndarray] = Batcher(
            encode_jobs,
            max_weight=limits.max_encode_batch,
            weight=lambda asked: len(asked.prepared),
            on_batch=metrics.batches.labels("encode").observe,
        )
        self._searching: Batcher[SearchJob, Any] = Batcher(
            search_jobs, max_weight=limits.max_search_batch, min_weight=SECOND_THREAD_MIN, weight=lambda asked: len(asked.queries),
            on_batch=metrics.batches.labels("search").observe, threads=limits.search_threads, initializer=use_single_thread,
        )  # fmt: skip

    def index(self, name: str) -> OpenIndex:
        """The snapshot that answers for a name. Raises Problem: 404 for a name that is not served, 503 while it has no snapshot."""
        live = self.indexes.get(name)
        if live is None:
            raise Problem(404, "no such index is served here")
        if live.index is None:
            raise Problem(503, "the index has no snapshot that can be opened yet", headers={"Retry-After": "5"})
        return live.index

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """A place among the searches that run at once, for as long as a request may take; else 429."""
        if self._running >= self.limits.concurrency:
            raise Problem(429, f"{self._running} searches are running already", headers={"Retry-After": "1"})
        self._running += 1
        self.metrics.running_searches.set(self._running)
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield
        finally:
            self._running -= 1
            self.metrics.running_searches.set(self._running)

    async def answer(self, index: OpenIndex, asked: SearchRequest, *, raw: bool = False) -> dict[str, Any]:
        """The answer as JSON has it; raw: with scores (float32) and ids (int64), both (n, k), for its results."""
        manifest = index.manifest
        if asked.fingerprint not in (None, manifest.fingerprint):
            raise Problem(409, "another encoder made this snapshot; read its fingerprint anew")
        start = time.perf_counter()
        queries = await self._resolve_vectors(index, asked)
        between = time.perf_counter()
        results = await self._search(index, queries, asked, raw)
        end = time.perf_counter()
        self.metrics.queries.labels(manifest.name).inc(len(queries))
        return {
            "index": manifest.name, "snapshot_id": manifest.snapshot_id, "metric": manifest.metric, "results": results,
            "encode_ms": round((between - start) * 1000, 3), "search_ms": round((end - between) * 1000, 3),
        }  # fmt: skip

    def close(self) -> None:
        """End the threads."""
        self._encoding.close()
        self._searching.close()

    async def _search(self, index: OpenIndex, queries: np.ndarray, asked: SearchOptions, raw: bool) -> Any:
        """The results; where threads are free and the queries many, each thread does a part of them."""
        count = max(1, min(self._searching.idle_threads, len(queries) // SPLIT_MIN))
        parts = await self._searching.submit(*(SearchJob(index, part, asked, raw) for part in np.array_split(queries, count)))
        if count == 1:
            return parts[0]
        if raw:
            return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return [row for part in parts for row in part]

    async def _resolve_vectors(self, index: OpenIndex, asked: SearchRequest) -> np.ndarray:
        """float32 (n, dim)."""
        if asked.texts is not None:
            return (await self._encoding.submit(EncodeJob(index, "text", [index.text(text) for text in asked.texts])))[0]
        if asked.images is not None:
            async with self._preparing:
                pictures = await asyncio.to_thread(lambda: [index.picture(image, self.limits.pixels) for image in asked.images or ()])
            return (await self._encoding.submit(EncodeJob(index, "image", pictures)))[0]
        if asked.items is not None:
            return await asyncio.to_thread(index.reconstruct_vectors, asked.items)
        return read_query_vectors(index.manifest, asked.vectors)


def encode_jobs(asked: Sequence[EncodeJob]) -> list[np.ndarray]:
    """The vectors of each: one call for all that one encoder makes of one modality."""
    vectors: list[np.ndarray] = [np.empty(0)] * len(asked)
    for positions in _group_positions([(id(one.index.encoder), one.modality) for one in asked]):
        first = asked[positions[0]]
        every = first.index.encoder.encode([item for position in positions for item in asked[position].prepared], first.modality)
        for position, part in zip(positions, _split(every, [len(asked[position].prepared) for position in positions]), strict=True):
            vectors[position] = read_query_vectors(first.index.manifest, part)
    return vectors


def search_jobs(asked: Sequence[SearchJob]) -> list[Any]:
    """The results of each: one call for all that ask the same of the same snapshot."""
    results: list[Any] = [None] * len(asked)
    keys = [(id(one.index), one.options.k, one.options.rerank, one.options.label, repr(one.options.where)) for one in asked]
    for positions in _group_positions(keys):
        index, options = asked[positions[0]].index, asked[positions[0]].options
        queries = np.concatenate([asked[position].queries for position in positions])
        scores, ids = index.search_vectors(queries, options.k, index.select_ids(options.label, options.where), rerank=options.rerank)
        counts = [len(asked[position].queries) for position in positions]
        for position, score, item in zip(positions, _split(scores, counts), _split(ids, counts), strict=True):
            results[position] = (score, item) if asked[position].raw else format_results(index, score, item, asked[position].options.fields)
    return results


def format_results(index: OpenIndex, scores: np.ndarray, ids: np.ndarray, fields: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The results of each query with the fields that were asked for."""
    pairs = [
        [(item, score) for item, score in zip(line, values, strict=True) if item >= 0]
        for line, values in zip(ids.tolist(), scores.tolist(), strict=True)
    ]
    if not fields:
        return [[{"id": str(item), "score": score} for item, score in row] for row in pairs]
    return [[format_result(index, rank, *pair, fields) for rank, pair in enumerate(row, start=1)] for row in pairs]


def format_result(index: OpenIndex, rank: int, item: int, score: float, fields: Sequence[str]) -> dict[str, Any]:
    """One result."""
    row = index.items.rows([item])[0] or {}
    pictured = bool(index.manifest.image_root and row.get("path"))
    said = {
        "rank": rank, "distance": distance(index.manifest.metric, score), "key": row.get("key"), "label": row.get("label"),
        "text": row.get("text"), "thumbnail": f"/v1/indexes/{index.manifest.name}/items/{item}/thumbnail" if pictured else None,
    }  # fmt: skip
    return {"id": str(item), "score": score, **{name: said[name] for name in fields}}


def _group_positions(keys: Sequence[Any]) -> list[list[int]]:
    """The places of equal keys, together."""
    positions: dict[Any, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    return list(positions.values())


def _split(array: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    ends = list(accumulate(counts))
    return [array[end - count : end] for end, count in zip(ends, counts, strict=True)]
