"""Answer searches: prepare inputs in threads, then encode and search in shared micro-batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from indexmill.serve.http.batching import Batcher
from indexmill.serve.http.limits import Limits
from indexmill.serve.http.live import LiveIndex
from indexmill.serve.http.metrics import Metrics
from indexmill.serve.http.problems import Problem
from indexmill.serve.http.responses import format_results
from indexmill.serve.http.schemas import SearchOptions, SearchRequest
from indexmill.serve.index import OpenIndex
from indexmill.serve.queries import read_query_vectors
from indexmill.storage.records import Modality
from indexmill.tasks.indexing.searcher import use_single_thread

SECOND_THREAD_MIN = 32  # queries that make it worth waking a second thread
SPLIT_MIN = 8  # fewest queries of a request that one thread takes
MAX_CONCURRENT_DECODES = 2  # requests; each image may take megabytes while it is decoded


@dataclass
class EncodeJob:
    """Prepared queries for one index's encoder."""

    index: OpenIndex
    modality: Modality
    prepared: list[Any]


@dataclass
class SearchJob:
    """Query vectors, float32 (n, dim), for one index. raw: return scores and ids as arrays instead of JSON objects."""

    index: OpenIndex
    queries: np.ndarray
    options: SearchOptions
    raw: bool = False


class Service:
    """The indexes being served, and the two queues that all searches pass through: encoding and searching."""

    def __init__(self, indexes: dict[str, LiveIndex], limits: Limits, metrics: Metrics) -> None:
        self.indexes, self.limits, self.metrics = indexes, limits, metrics
        self._running = 0
        self._decode_slots = asyncio.Semaphore(MAX_CONCURRENT_DECODES)
        self._encode_queue: Batcher[EncodeJob, np.ndarray] = Batcher(
            encode_jobs,
            weight=lambda job: len(job.prepared),
            max_weight=limits.max_encode_batch,
            on_batch=metrics.batch_requests.labels("encode").observe,
        )
        self._search_queue: Batcher[SearchJob, Any] = Batcher(
            search_jobs,
            weight=lambda job: len(job.queries),
            max_weight=limits.max_search_batch,
            min_weight=SECOND_THREAD_MIN,
            on_batch=metrics.batch_requests.labels("search").observe,
            threads=limits.search_threads,
            initializer=use_single_thread,
        )

    def get_index(self, name: str) -> OpenIndex:
        """Return the open snapshot of an index.

        Raises Problem: 404 if it is not served, 503 if no snapshot could be opened yet.
        """
        live = self.indexes.get(name)
        if live is None:
            raise Problem(404, "no index of this name is served here")
        if live.index is None:
            raise Problem(503, "the index has no snapshot that can be opened yet", headers={"Retry-After": "5"})
        return live.index

    @asynccontextmanager
    async def admit(self) -> AsyncIterator[None]:
        """Count the block as a running search, within the time limit. Raises Problem 429 if too many are running."""
        if self._running >= self.limits.max_concurrent_searches:
            raise Problem(429, f"{self._running} searches are already running", headers={"Retry-After": "1"})
        self._running += 1
        self.metrics.searches_in_progress.set(self._running)
        try:
            async with asyncio.timeout(self.limits.timeout_seconds):
                yield
        finally:
            self._running -= 1
            self.metrics.searches_in_progress.set(self._running)

    async def search(self, index: OpenIndex, request: SearchRequest, *, raw: bool = False) -> dict[str, Any]:
        """Answer a search request.

        Args:
            index: The snapshot to search.
            request: The queries and options.
            raw: Return `results` as a pair of arrays, scores float32 and ids int64, both (n, k), instead of JSON
                objects.

        Returns:
            The fields of `SearchResponse`.
        """
        manifest = index.manifest
        if request.fingerprint not in (None, manifest.fingerprint, manifest.query_fingerprint):
            raise Problem(409, "the snapshot was built by another encoder; get the index's current fingerprint")
        start = time.perf_counter()
        queries = await self._resolve_vectors(index, request)
        encoded = time.perf_counter()
        results = await self._search_vectors(index, queries, request, raw)
        searched = time.perf_counter()
        self.metrics.queries.labels(manifest.name).inc(len(queries))
        return {
            "index": manifest.name,
            "snapshot_id": manifest.snapshot_id,
            "metric": manifest.metric,
            "results": results,
            "encode_ms": round((encoded - start) * 1000, 3),
            "search_ms": round((searched - encoded) * 1000, 3),
        }

    def close(self) -> None:
        """Stop the threads."""
        self._encode_queue.close()
        self._search_queue.close()

    async def _resolve_vectors(self, index: OpenIndex, request: SearchRequest) -> np.ndarray:
        """Return the query vectors, float32 (n, dim)."""
        if request.texts is not None:
            return (await self._encode_queue.submit(EncodeJob(index, "text", [index.prepare_text(text) for text in request.texts])))[0]
        if request.images is not None:
            images, max_pixels = request.images, self.limits.max_pixels
            async with self._decode_slots:
                prepared = await asyncio.to_thread(lambda: [index.prepare_image(image, max_pixels) for image in images])
            return (await self._encode_queue.submit(EncodeJob(index, "image", prepared)))[0]
        if request.items is not None:
            return await asyncio.to_thread(index.reconstruct_vectors, request.items)
        return read_query_vectors(index.manifest, request.vectors)

    async def _search_vectors(self, index: OpenIndex, queries: np.ndarray, options: SearchOptions, raw: bool) -> Any:
        """Search, split over idle threads if there are many queries."""
        count = max(1, min(self._search_queue.idle_threads, len(queries) // SPLIT_MIN))
        bounds = [len(queries) * number // count for number in range(count + 1)]
        jobs = [SearchJob(index, queries[start:end], options, raw) for start, end in pairwise(bounds)]
        parts = await self._search_queue.submit(*jobs)
        if count == 1:
            return parts[0]
        if raw:
            return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return [row for part in parts for row in part]


def encode_jobs(jobs: Sequence[EncodeJob]) -> list[np.ndarray]:
    """Return the vectors of each job, with one encoder call per encoder and modality."""
    vectors: list[np.ndarray] = [np.empty(0)] * len(jobs)
    for positions in _group_positions([(id(job.index.encoder), job.modality) for job in jobs]):
        index, modality = jobs[positions[0]].index, jobs[positions[0]].modality
        encoded = index.encoder.encode([item for position in positions for item in jobs[position].prepared], modality)
        for position, part in zip(positions, _split_rows(encoded, [len(jobs[position].prepared) for position in positions]), strict=True):
            vectors[position] = read_query_vectors(index.manifest, part)
    return vectors


def search_jobs(jobs: Sequence[SearchJob]) -> list[Any]:
    """Return the results of each job, with one search per snapshot and set of options."""
    results: list[Any] = [None] * len(jobs)
    keys = [(id(job.index), job.options.k, job.options.rerank, job.options.label, repr(job.options.where)) for job in jobs]
    for positions in _group_positions(keys):
        index, options = jobs[positions[0]].index, jobs[positions[0]].options
        queries = np.concatenate([jobs[position].queries for position in positions]) if len(positions) > 1 else jobs[positions[0]].queries
        allowed_ids = index.select_ids(options.label, options.where)
        scores, ids = index.search_vectors(queries, options.k, allowed_ids, rerank=options.rerank)
        counts = [len(jobs[position].queries) for position in positions]
        for position, job_scores, job_ids in zip(positions, _split_rows(scores, counts), _split_rows(ids, counts), strict=True):
            job = jobs[position]
            results[position] = (
                (job_scores, index.find_item_ids(job_ids)) if job.raw else format_results(index, job_scores, job_ids, job.options.fields)
            )
    return results


def _group_positions(keys: Sequence[Any]) -> list[list[int]]:
    """Return the positions of equal keys, grouped."""
    positions: dict[Any, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    return list(positions.values())


def _split_rows(array: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    return [array[end - count : end] for end, count in zip(accumulate(counts), counts, strict=True)]
