"""Exact nearest neighbors of queries: found by comparing every vector once, and brought up to date in later builds.

A later build compares all queries with the added items, and only queries that are new, or that have lost more
neighbors than are kept beyond `k`, with the whole database (`tasks.metrics.neighbor_updates`).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.embedding_store import read_items
from indexmill.storage.errors import DamagedFile
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root, find_file_error
from indexmill.tasks.evaluation.search_jobs import BLOCK_ITEMS, plan_search, search_in_jobs
from indexmill.tasks.indexing.chunk_search import exact_search_items
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.metrics.neighbor_updates import KnownNeighbors, update_neighbors
from indexmill.tasks.progress import track
from indexmill.tasks.runner import LOCAL_RUNNER, Runner

SPARE_RANKS = 10  # kept beyond k, so that a removed neighbor costs no new search
MAX_CHANGED_SHARE = 0.25  # above it, everything is searched
DIGEST_BYTES = 16
DAMAGED = (DamagedFile, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, ValidationError)


@dataclass(frozen=True)
class GroundTruth:
    """The exact nearest neighbors: scores float32 and ids int64, both (queries, k), best first, and the file that holds them."""

    scores: np.ndarray
    ids: np.ndarray
    file: FileRef


class TruthRequest(NamedTuple):
    """What to search for.

    Attributes:
        indexed: The vectors that the index holds; their database side is searched.
        query_embeddings: The set that the queries come from.
        query_ids: int64 (n,).
        query_vectors: float32 (n, dim).
        k: Neighbors per query.
        metric: A FAISS metric type.
        purpose: Tells the searches of one index apart: a set of queries, or "tuning".
        searcher: The index, if it may be used for its stored vectors.
    """

    indexed: EmbeddingSet
    query_embeddings: EmbeddingSet
    query_ids: np.ndarray
    query_vectors: np.ndarray
    k: int
    metric: int
    purpose: str = ""
    searcher: Searcher | None = None

    @property
    def family(self) -> str:
        """Names the searches whose results can be brought up to date: the same vectors, metric and purpose."""
        indexed, queries = self.indexed, self.query_embeddings
        stores = [[each.fingerprint, each.query_fingerprint, each.modality, each.dim] for each in (indexed, queries)]
        return json_digest([stores, self.metric, self.purpose])[:8]

    @property
    def key(self) -> str:
        """Digest of all that the result depends on. The index is not part of it."""
        indexed, queries = self.indexed, self.query_embeddings
        sets = [indexed.digest, indexed.modality, queries.digest, queries.modality]
        return json_digest([*sets, self.query_ids.tolist(), self.k, self.metric])


def compute_ground_truth(root: Root, folder: Path, request: TruthRequest, runner: Runner = LOCAL_RUNNER) -> GroundTruth:
    """Find the exact neighbors: read the result for the same queries and database, bring an earlier one up to date, or search.

    A database of more than BLOCK_ITEMS items is searched by several jobs.

    Args:
        root: The storage root.
        folder: Where ground-truth files are kept.
        request: What to search for.
        runner: Runs the jobs.
    """
    path = folder / f"ground_truth-{request.family}-{request.key[:16]}.npz"
    if root.exists(path) and (cached := _read_neighbors(root.fetch(path), request.key)):
        return GroundTruth(cached.scores[:, : request.k], cached.ids[:, : request.k], root.make_ref(path))
    with track("exact search", request.indexed.indexed_vectors.database) as advance:
        known = _update_earlier(root, folder, request)
        if known is None:
            known = _search_all(root, request, request.query_vectors, runner)
        elif len(rows := np.flatnonzero(~known.is_complete & (known.count_known() < request.k))):
            for part, found in zip(known, _search_rows(root, request, rows, runner), strict=True):
                part[rows] = found
        advance(request.indexed.indexed_vectors.database)
    with root.replace_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            **known._asdict(),
            key=np.array(request.key),
            queries=digest_rows(request.query_vectors),
            database=np.array(request.indexed.items.model_dump_json()),
        )
    return GroundTruth(known.scores[:, : request.k], known.ids[:, : request.k], root.make_ref(path))


def digest_rows(vectors: np.ndarray) -> np.ndarray:
    """Return a digest of each vector's bytes, `S16` (n,): equal queries have equal neighbors."""
    rows = np.ascontiguousarray(vectors, np.float32)
    return np.array([blake2b(row.tobytes(), digest_size=DIGEST_BYTES).hexdigest() for row in rows], f"S{2 * DIGEST_BYTES}")


def _update_earlier(root: Root, folder: Path, request: TruthRequest) -> KnownNeighbors | None:
    """Bring the newest result of an earlier build up to date; None if there is none that helps.

    Queries without earlier neighbors have no known rank. Chunks are searched for their items, so their neighbors are not
    brought up to date.
    """
    if request.indexed.chunks:
        return None
    paths = root.list_files(folder, f"ground_truth-{request.family}-*.npz")
    paths.sort(key=lambda path: (info.modified if (info := root.store.info(path)) else 0.0, path.name), reverse=True)
    for path in paths:
        if earlier := _read_earlier(root, root.fetch(path), request):
            changes = _find_changes(root, earlier.database, request.indexed)
            if changes is not None:
                return _apply_changes(root, request, earlier, *changes)
    return None


class _EarlierTruth(NamedTuple):
    """Neighbors of an earlier build, the digests of its queries, and the items that were searched."""

    known: KnownNeighbors
    queries: np.ndarray
    database: FileRef


def _read_earlier(root: Root, path: Path, request: TruthRequest) -> _EarlierTruth | None:
    """Read what an earlier build has found; None if it is damaged, too shallow, or its items are no longer there."""
    try:
        with np.load(path, allow_pickle=False) as file:
            known = KnownNeighbors(file["scores"], file["ids"], file["is_complete"])
            earlier = _EarlierTruth(known, file["queries"], FileRef.model_validate_json(str(file["database"])))
        is_there = root.exists(root.path / earlier.database.path)
        if not is_there or find_file_error(root.file(earlier.database), earlier.database, digest=True):
            return None
    except DAMAGED:
        return None
    fits = known.ids.shape == known.scores.shape == (len(earlier.queries), request.k + SPARE_RANKS)
    return earlier if fits and len(earlier.queries) else None


def _find_changes(root: Root, before: FileRef, indexed: EmbeddingSet) -> tuple[np.ndarray, np.ndarray] | None:
    """Find the ids that are no longer in the database with the same content, and those that were not; None if too many changed."""
    tables = [
        f"SELECT item_id, content_digest FROM {parquet.scan_sql(root.file(ref))} WHERE side = 'database'" for ref in (before, indexed.items)
    ]
    removed, added = (
        np.array([item for (item,) in parquet.fetch_rows(f"SELECT item_id FROM ({a} EXCEPT {b}) ORDER BY 1", temp_dir=root.tmp)], np.int64)
        for a, b in (tables, tables[::-1])
    )
    return None if len(removed) + len(added) > MAX_CHANGED_SHARE * indexed.database else (removed, added)


def _apply_changes(root: Root, request: TruthRequest, earlier: _EarlierTruth, removed: np.ndarray, added: np.ndarray) -> KnownNeighbors:
    rows_by_digest = {digest: row for row, digest in enumerate(earlier.queries.tolist())}
    rows = np.array([rows_by_digest.get(digest, -1) for digest in digest_rows(request.query_vectors).tolist()], np.int64)
    known, is_new = earlier.known.select(rows), rows < 0
    known.ids[is_new], known.is_complete[is_new] = -1, False
    added_vectors = read_items(root, request.indexed, added)
    return update_neighbors(known, np.ascontiguousarray(request.query_vectors, np.float32), removed, added_vectors, request.metric)


def _search_rows(root: Root, request: TruthRequest, rows: np.ndarray, runner: Runner) -> KnownNeighbors:
    """Search the whole database for some of the queries: in the index's stored vectors if they are whole, else in the embedding store."""
    queries = np.ascontiguousarray(request.query_vectors[rows], np.float32)
    stores = request.searcher.stores if request.searcher else []
    is_exact = bool(stores) and all(store.vectors.dtype == np.float32 for store in stores)
    if not is_exact or sum(len(store.ids) for store in stores) != request.indexed.database:
        return _search_all(root, request, queries, runner)
    depth = request.k + SPARE_RANKS

    def read_blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for store in stores:
            for start in range(0, len(store.ids), parquet.BATCH_ROWS):
                block = slice(start, start + parquet.BATCH_ROWS)
                yield store.ids[block], np.asarray(store.vectors[block])

    scores, ids = exact_search(queries, read_blocks(), depth, request.metric)
    return KnownNeighbors(scores, ids, np.full(len(queries), request.indexed.database <= depth))


def _search_all(root: Root, request: TruthRequest, queries: np.ndarray, runner: Runner) -> KnownNeighbors:
    """Search the embedding store, one rank deeper than needed for each that may be lost."""
    indexed, depth = request.indexed, request.k + SPARE_RANKS
    if indexed.chunks or indexed.database <= BLOCK_ITEMS:
        scores, ids = exact_search_items(root, indexed, queries, depth, request.metric)
    else:
        key = json_digest([request.key, digest_rows(queries).astype(str).tolist()])
        jobs = plan_search(root, key, indexed, queries, depth, request.metric)
        scores, ids = search_in_jobs(root, jobs, indexed, runner, lambda items: None)
    return KnownNeighbors(scores, ids, np.full(len(queries), indexed.database <= depth))


def _read_neighbors(path: Path, key: str) -> KnownNeighbors | None:
    """Read the neighbors, or None if the file is damaged or belongs to another key."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return KnownNeighbors(file["scores"], file["ids"], file["is_complete"]) if str(file["key"]) == key else None
    except DAMAGED:
        return None
