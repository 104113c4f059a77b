"""Search an index of chunks for items: an item is as near as the nearest of its chunks.

FAISS knows ids of chunks only. A search for k items asks for more than k chunks, keeps the best chunk of each item, and asks
for twice as many until k items are found. With at most m chunks per item, (k - 1)m + 1 chunks always hold k items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np

from indexmill.storage import parquet
from indexmill.storage.embedding_store import open_vectors_by_part
from indexmill.storage.index_records import SearchParams
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.indexing.filtered_search import search_exhaustively, search_filtered
from indexmill.tasks.indexing.reranking import VectorStore
from indexmill.tasks.indexing.searcher import DEFAULT_PARAMS, Searcher
from indexmill.tasks.metrics.exact_search import exact_search
from indexmill.tasks.progress import Advance, ignore_progress

FIRST_CHUNKS_PER_ITEM = 2  # the first search asks for this many chunks per item


class ChunkMap:
    """Which item each chunk belongs to. Holds 24 bytes per chunk and 8 per item.

    Attributes:
        chunk_ids: int64 (chunks,), ascending.
        item_ids: The item of each, int64 (chunks,).
        max_chunks: The most chunks of one item.
    """

    def __init__(self, chunk_ids: np.ndarray, item_ids: np.ndarray, numbers: np.ndarray) -> None:
        """Take the columns of a chunk table.

        Args:
            chunk_ids: int64 (chunks,), ascending.
            item_ids: int64 (chunks,).
            numbers: The position of each chunk in its item, int (chunks,); every item has a chunk 0.
        """
        self.chunk_ids, self.item_ids = chunk_ids, item_ids
        order = np.lexsort((numbers, item_ids))
        self._by_item = chunk_ids[order]
        self._items, self._starts = np.unique(item_ids[order], return_index=True)
        self._starts = np.append(self._starts, len(chunk_ids))
        self.max_chunks = int(np.diff(self._starts).max(initial=1))

    def __len__(self) -> int:
        return len(self.chunk_ids)

    @property
    def items(self) -> int:
        """The number of items."""
        return len(self._items)

    def find_items(self, chunk_ids: np.ndarray) -> np.ndarray:
        """Return the item of each chunk, int64 of the same shape; -1 for id -1 and for unknown chunks."""
        if not len(self):
            return np.full(chunk_ids.shape, -1, np.int64)
        rows = np.minimum(np.searchsorted(self.chunk_ids, chunk_ids), len(self) - 1)
        return np.where(self.chunk_ids[rows] == chunk_ids, self.item_ids[rows], -1)

    def find_chunks(self, item_ids: np.ndarray) -> np.ndarray:
        """Return all chunks of items (int64, ascending; unknown ones are ignored), int64 ascending."""
        if not len(item_ids):
            return np.empty(0, np.int64)
        positions = np.minimum(np.searchsorted(item_ids, self.item_ids), len(item_ids) - 1)
        return self.chunk_ids[item_ids[positions] == self.item_ids]

    def find_first_chunk(self, item_id: int) -> int:
        """Return the first chunk of an item. Raises KeyError for an unknown item."""
        row = int(np.searchsorted(self._items, item_id))
        if row == len(self._items) or self._items[row] != item_id:
            raise KeyError(item_id)
        return int(self._by_item[self._starts[row]])


def read_chunk_map(path: Path, *, temp_dir: Path) -> ChunkMap:
    """Read the map from a chunk table (item_id of the chunk, parent_id, chunk)."""
    columns: list[list[np.ndarray]] = [[np.empty(0, np.int64)] for _ in range(3)]
    sql = f"SELECT item_id, parent_id, chunk::BIGINT AS chunk FROM {parquet.scan_sql(path)} ORDER BY item_id"
    with parquet.query(sql, temp_dir=temp_dir) as batches:
        for batch in batches:
            for values, column in zip(columns, batch.columns, strict=True):
                values.append(column.to_numpy())
    return ChunkMap(*(np.concatenate(values) for values in columns))


def load_chunk_map(root: Root, embeddings: EmbeddingSet) -> ChunkMap | None:
    """Read the map of an embedding set; None if it is not chunked."""
    return read_chunk_map(root.file(embeddings.chunks.items), temp_dir=root.tmp) if embeddings.chunks else None


class ChunkSearcher(Searcher):
    """A searcher over shards of chunks that returns items: `search` as that of `Searcher`, with item ids."""

    def __init__(
        self,
        shards: Sequence[faiss.Index],
        metric: str,
        params: SearchParams = DEFAULT_PARAMS,
        *,
        stores: Sequence[VectorStore] = (),
        chunks: ChunkMap,
    ) -> None:
        """Take over the shards. chunks: the item of every chunk in them; the other arguments are those of `Searcher`."""
        self.chunks = chunks
        super().__init__(shards, metric, params, stores=stores)

    @property
    def items(self) -> int:
        """The number of items in the map: at least that in the shards."""
        return self.chunks.items

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the k best items of each query: scores float32 and item ids int64, both (n, k), as `Searcher.search` does."""
        scores, chunk_ids = self.search_chunks(queries, k)
        return scores, self.chunks.find_items(chunk_ids)

    def search_chunks(
        self, queries: np.ndarray, k: int, *, allowed_items: np.ndarray | None = None, rerank: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the best chunk of each of the k best items.

        All k come back if the index has that many, whatever part of it a search visits: queries that find fewer are compared
        with the whole index.

        Args:
            queries: float32 (n, dim).
            k: The number of items per query.
            allowed_items: Ids of the items to search, int64 ascending; None for all.
            rerank: As in `search_filtered`.

        Returns:
            Scores float32 and chunk ids int64, both (n, k), best first, ties by ascending item id.
        """
        allowed_chunks = None if allowed_items is None else self.chunks.find_chunks(allowed_items)

        def search(rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
            if allowed_chunks is None and (rerank or not self.stores):
                return self.search_vectors(rows, depth)
            return search_filtered(self, rows, depth, allowed_ids=allowed_chunks, rerank=rerank)

        total = self.vectors if allowed_chunks is None else min(self.vectors, len(allowed_chunks))
        queries = np.ascontiguousarray(queries, np.float32)
        scores, chunk_ids = find_best_chunks(search, self.chunks, queries, k, total, higher_is_better=self.higher_is_better)
        # A search of some lists, or of a graph, may find fewer items than there are.
        incomplete = np.flatnonzero((chunk_ids < 0).any(axis=1)) if allowed_chunks is None and self.search_param else ()
        if len(incomplete):

            def search_all(rows: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
                return search_exhaustively(self, rows, depth)

            scores[incomplete], chunk_ids[incomplete] = find_best_chunks(
                search_all, self.chunks, queries[incomplete], k, total, higher_is_better=self.higher_is_better
            )
        return scores, chunk_ids


class SearchVectors(Protocol):
    """Finds the `depth` best chunks of queries: scores and chunk ids (n, depth), best first, id -1 for empty ranks."""

    def __call__(self, queries: np.ndarray, depth: int, /) -> tuple[np.ndarray, np.ndarray]:
        """Search."""
        ...


def find_best_chunks(
    search: SearchVectors, chunks: ChunkMap, queries: np.ndarray, k: int, total: int, *, higher_is_better: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Search for chunks until k items are found.

    Args:
        search: Finds the best chunks.
        chunks: The item of each chunk.
        queries: float32 (n, dim).
        k: The number of items per query.
        total: The number of chunks that can be found.
        higher_is_better: The direction of the scores.

    Returns:
        The score and the id of the best chunk of each item, float32 and int64, both (n, k), best first, ties by ascending
        item id; empty ranks have id -1 and the worst score.
    """
    scores = np.full((len(queries), k), -np.inf if higher_is_better else np.inf, np.float32)
    chunk_ids = np.full((len(queries), k), -1, np.int64)
    max_depth = max(1, min(total, (k - 1) * chunks.max_chunks + 1))
    depth, pending = min(max_depth, FIRST_CHUNKS_PER_ITEM * k), np.arange(len(queries))
    while len(pending):
        found_scores, found_ids = search(queries[pending], depth)
        width = min(k, depth)
        best = keep_best_chunks(found_scores, found_ids, chunks.find_items(found_ids), width, higher_is_better=higher_is_better)
        scores[pending, :width], chunk_ids[pending, :width] = best
        if depth == max_depth:
            break
        pending = pending[(chunk_ids[pending, k - 1] < 0) & (found_ids[:, -1] >= 0)]  # others have found all they can
        depth = min(max_depth, 2 * depth)
    return scores, chunk_ids


def keep_best_chunks(
    scores: np.ndarray, chunk_ids: np.ndarray, item_ids: np.ndarray, k: int, *, higher_is_better: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the first chunk of each item in each row, and of these the k best.

    Args:
        scores: (n, m), m >= k, best first.
        chunk_ids: (n, m).
        item_ids: (n, m); -1 for an empty rank.
        k: The number of items.
        higher_is_better: The direction of the scores.

    Returns:
        Scores and chunk ids (n, k), best first, ties by ascending item id; empty ranks have id -1 and the worst score.
    """
    by_item = np.argsort(item_ids, axis=1, kind="stable")
    sorted_items = np.take_along_axis(item_ids, by_item, axis=1)
    is_new = np.ones(item_ids.shape, bool)
    np.not_equal(sorted_items[:, 1:], sorted_items[:, :-1], out=is_new[:, 1:])
    is_first = np.empty(item_ids.shape, bool)
    np.put_along_axis(is_first, by_item, is_new & (sorted_items >= 0), axis=1)
    keys = np.where(is_first, -scores if higher_is_better else scores, np.inf)
    order = np.lexsort((item_ids, ~is_first, keys), axis=1)[:, :k]
    best_scores, best_ids = np.take_along_axis(scores, order, axis=1), np.take_along_axis(chunk_ids, order, axis=1)
    is_empty = ~np.take_along_axis(is_first, order, axis=1)
    best_scores[is_empty], best_ids[is_empty] = -np.inf if higher_is_better else np.inf, -1
    return best_scores, best_ids


def exact_search_items(
    root: Root,
    embeddings: EmbeddingSet,
    queries: np.ndarray,
    k: int,
    metric: int,
    advance: Advance = ignore_progress,
    *,
    side: Side = "database",
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest items of one side exactly; of a chunked set, by their nearest chunks.

    Args:
        root: The storage root.
        embeddings: The items.
        queries: float32 (n, dim).
        k: The number of items.
        metric: A FAISS metric type.
        advance: Is called with the number of vectors compared.
        side: The side.

    Returns:
        Scores float32 and item ids int64, both (n, k), as `exact_search` returns them.
    """
    vectors: EmbeddingSet = embeddings.indexed_vectors

    def search(rows: np.ndarray, depth: int) -> tuple[Any, Any]:
        with open_vectors_by_part(root, vectors, side=side) as blocks:
            return exact_search(rows, _track_blocks(blocks, advance), depth, metric)

    queries = np.ascontiguousarray(queries, np.float32)
    if (chunks := load_chunk_map(root, embeddings)) is None:
        return search(queries, k)
    higher_is_better = metric == faiss.METRIC_INNER_PRODUCT
    scores, chunk_ids = find_best_chunks(search, chunks, queries, k, getattr(vectors, side), higher_is_better=higher_is_better)
    return scores, chunks.find_items(chunk_ids)


def _track_blocks(blocks: Iterable[tuple[np.ndarray, np.ndarray]], advance: Advance) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Report progress after each block was used."""
    for ids, block in blocks:
        yield ids, block
        advance(len(ids))
