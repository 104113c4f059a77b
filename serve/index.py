"""Open a published snapshot and search it from Python."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from indexmill.serve.encoder import QueryEncoder
from indexmill.serve.items import FILTER_COLUMNS, ItemTable
from indexmill.serve.queries import (
    InvalidQuery,
    QueryImage,
    check_modality,
    query_modalities,
    read_query_image,
    read_query_text,
    read_query_vectors,
)
from indexmill.storage.errors import DamagedFile
from indexmill.storage.records import FileRef, Modality
from indexmill.storage.retention import hold_snapshot
from indexmill.storage.root import Root, verify_file
from indexmill.storage.snapshots import Snapshots
from indexmill.tasks.indexing.chunk_search import ChunkSearcher, read_chunk_map
from indexmill.tasks.indexing.filtered_search import reconstruct_vectors, search_filtered
from indexmill.tasks.indexing.searcher import Searcher
from indexmill.tasks.indexing.shard_store import open_searcher

WhereFilter = Mapping[Any, str | Sequence[str]]


class SearchResult(NamedTuple):
    """One retrieved item.

    `text` is the item's, or in an index of chunks that of its best chunk. `score` is what FAISS returns; `distance` is smaller
    for nearer items, whatever the metric (`to_distance`).
    """

    rank: int
    item_id: int
    score: float
    distance: float
    key: str
    label: str | None
    text: str | None
    path: str | None


@dataclass(frozen=True)
class SearchResults:
    """The results of each query, best first, and the milliseconds spent on encoding and searching."""

    name: str
    snapshot_id: str
    metric: str
    results: list[list[SearchResult]]
    encode_ms: float
    search_ms: float


class OpenIndex:
    """One snapshot of one index, with all files verified. It keeps serving that snapshot when newer ones are published.

    In RAM are the codes of the index, the item ids, and the encoder once something has been encoded; for an index of chunks
    also 32 bytes per chunk. Threads may share it. While it is open, retention does not remove the snapshot; `close` or the
    end of a `with` block releases it.
    """

    def __init__(self, root: Root, name: str, snapshot_id: str | None = None, *, encoder: QueryEncoder | None = None) -> None:
        snapshots = Snapshots(root, name)
        with ExitStack() as stack:
            self.manifest = stack.enter_context(hold_snapshot(snapshots, snapshot_id))
            self.snapshot_dir = snapshots.fetch(self.manifest)
            try:
                self.searcher = self._open_files(root.tmp)
            except DamagedFile:
                if not snapshots.drop_damaged_copies(self.manifest):
                    raise
                snapshots.fetch(self.manifest)
                self.searcher = self._open_files(root.tmp)
            self.items = ItemTable(self.snapshot_dir / "items.parquet", root.scratch)
            self.chunks = ItemTable(self._chunks_file, root.scratch) if self._chunks_file else None
            self._hold = stack.pop_all()
        self.encoder = encoder or QueryEncoder(root, self.manifest)
        self._search_lock = Lock()

    def __enter__(self) -> OpenIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the snapshot, so that retention may remove it."""
        self._hold.close()

    def search(
        self,
        *,
        texts: Sequence[str] | None = None,
        images: Sequence[QueryImage] | None = None,
        vectors: Any = None,
        items: Sequence[int] | None = None,
        k: int = 10,
        label: str | None = None,
        where: WhereFilter | None = None,
        rerank: bool = True,
    ) -> SearchResults:
        """Find the k best items for each query. Pass exactly one of `texts`, `images`, `vectors` and `items`.

        Args:
            texts: Query texts.
            images: Query images: file contents, paths or Pillow images.
            vectors: Query vectors, (n, dim).
            items: Ids of indexed items; their vectors are the queries.
            k: The number of results per query.
            label: Return only items with this label.
            where: Return only items that match: column (label, key, side, given_split) -> one or several accepted
                values.
            rerank: Score the candidates of a compressed index again with their stored vectors, if the index has them.

        Raises:
            InvalidQuery: The query cannot be answered.
        """
        start = time.perf_counter()
        queries = self._resolve_query_vectors(texts, images, vectors, items)
        encoded = time.perf_counter()
        allowed_ids = self.select_ids(label, where)
        with self._search_lock:  # one search at a time, each with all of FAISS's threads
            scores, ids = self.search_vectors(queries, k, allowed_ids, rerank=rerank)
        searched = time.perf_counter()
        return SearchResults(
            name=self.manifest.name,
            snapshot_id=self.manifest.snapshot_id,
            metric=self.manifest.metric,
            results=self.make_results(scores, ids),
            encode_ms=(encoded - start) * 1000,
            search_ms=(searched - encoded) * 1000,
        )

    def warm_up(self) -> None:
        """Load the encoder and run one query, so that the first real one does not wait."""
        for modality in query_modalities(self.manifest):
            sample = self.prepare_text("warm-up") if modality == "text" else self.prepare_image(Image.new("RGB", (64, 64)))
            self.search_vectors(self._encode([sample], modality), 10)

    def prepare_image(self, image: QueryImage, max_pixels: float = float("inf")) -> Any:
        """Read and preprocess an image for the encoder."""
        check_modality(self.manifest, "image")
        decode_size = self.encoder.load("image").decode_size
        return self.encoder.preprocess(read_query_image(self.manifest, image, max_pixels, decode_size), "image")

    def prepare_text(self, text: str) -> Any:
        """Normalize and preprocess a text for the encoder."""
        check_modality(self.manifest, "text")
        return self.encoder.preprocess(read_query_text(text), "text")

    def reconstruct_vectors(self, ids: Sequence[int]) -> np.ndarray:
        """Return the vectors of items, float32 (n, dim). Raises InvalidQuery for an id that is not in the index."""
        try:
            if isinstance(self.searcher, ChunkSearcher):  # an item as a query is its first chunk
                ids = [self.searcher.chunks.find_first_chunk(item) for item in ids]
            with self._search_lock:
                return read_query_vectors(self.manifest, reconstruct_vectors(self.searcher, list(ids)))
        except KeyError as error:
            raise InvalidQuery("the item is not in the index", got=f"item {error.args[0]}") from None

    def select_ids(self, label: str | None = None, where: WhereFilter | None = None) -> np.ndarray | None:
        """Return the ids that a filter allows, int64 ascending; None without a filter."""
        filters = {**({} if label is None else {"label": label}), **(where or {})}
        if unknown := [column for column in filters if column not in FILTER_COLUMNS]:
            raise InvalidQuery("items cannot be filtered by this column", expected=" or ".join(FILTER_COLUMNS), got=", ".join(unknown))
        if not filters:
            return None
        return self.items.filter_ids({column: [values] if isinstance(values, str) else values for column, values in filters.items()})

    def search_vectors(
        self, queries: np.ndarray, k: int, allowed_ids: np.ndarray | None = None, *, rerank: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search with vectors from `read_query_vectors`.

        Several threads may call this at once, and should then use one FAISS thread each (`use_single_thread`).

        Returns:
            Scores float32 and ids int64, both (n, k), with k cut to the number of items; id -1 where fewer were found. In an
            index of chunks, an id is that of the best chunk of an item: see `find_item_ids` and `get_result_row`.
        """
        if k < 1:
            raise InvalidQuery("k is too small", expected="1 or more", got=str(k))
        k = min(k, self.manifest.items if allowed_ids is None else len(allowed_ids))
        if not k or not len(queries):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if isinstance(self.searcher, ChunkSearcher):
            return self.searcher.search_chunks(queries, k, allowed_items=allowed_ids, rerank=rerank)
        return search_filtered(self.searcher, queries, k, allowed_ids=allowed_ids, rerank=rerank)

    def find_item_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return the items of ids that `search_vectors` returned, int64 of the same shape."""
        return self.searcher.chunks.find_items(ids) if isinstance(self.searcher, ChunkSearcher) else ids

    def get_result_row(self, result_id: int) -> tuple[int, dict[str, Any] | None]:
        """Return the item of an id that `search_vectors` returned, and its row, whose text is that of the best chunk."""
        if self.chunks is None:
            return result_id, self.items.get_rows([result_id])[0]
        item = int(self.find_item_ids(np.array([result_id]))[0])
        (row,), (chunk,) = self.items.get_rows([item]), self.chunks.get_rows([result_id])
        return item, row and chunk and {**row, "text": chunk["text"]}

    def make_results(self, scores: np.ndarray, ids: np.ndarray) -> list[list[SearchResult]]:
        """Join the output of `search_vectors` with the rows of the items."""
        return [
            [
                self._make_result(rank, item, score, row)
                for rank, (score, (item, row)) in enumerate(zip(query_scores, map(self.get_result_row, query_ids), strict=True), start=1)
                if row is not None
            ]
            for query_ids, query_scores in zip(ids.tolist(), scores.tolist(), strict=True)
        ]

    def _make_result(self, rank: int, item: int, score: float, row: dict[str, Any]) -> SearchResult:
        return SearchResult(
            rank=rank,
            item_id=item,
            score=score,
            distance=to_distance(self.manifest.metric, score),
            key=row["key"],
            label=row["label"],
            text=row["text"],
            path=row["path"],
        )

    def _resolve_query_vectors(
        self, texts: Sequence[str] | None, images: Sequence[QueryImage] | None, vectors: Any, items: Sequence[int] | None
    ) -> np.ndarray:
        queries = {"texts": texts, "images": images, "vectors": vectors, "items": items}
        if len(passed := [kind for kind, value in queries.items() if value is not None]) != 1:
            raise InvalidQuery("pass exactly one kind of query", expected=" or ".join(queries), got=" and ".join(passed) or "none")
        if texts is not None:
            return self._encode([self.prepare_text(text) for text in texts], "text")
        if images is not None:
            return self._encode([self.prepare_image(image) for image in images], "image")
        return read_query_vectors(self.manifest, vectors) if items is None else self.reconstruct_vectors(items)

    def _encode(self, prepared: Sequence[Any], modality: Modality) -> np.ndarray:
        return read_query_vectors(self.manifest, self.encoder.encode(prepared, modality))

    def _open_files(self, temp_dir: Path) -> Searcher:
        """Verify all files, those of shards as they are opened."""
        shard_paths = {ref.path for shard in self.manifest.shards for ref in shard.files}
        for ref in self.manifest.files:
            if ref.path not in shard_paths:
                verify_file(self.snapshot_dir / ref.path, ref)
        chunk_map = read_chunk_map(self._chunks_file, temp_dir=temp_dir) if self._chunks_file else None
        params = self.manifest.search.params
        return open_searcher(self.manifest.shards, self._resolve_path, self.manifest.metric, params, chunk_map)

    @property
    def _chunks_file(self) -> Path | None:
        """The snapshot's table of chunks, if its texts were divided."""
        path = self.snapshot_dir / "chunks.parquet"
        return path if any(ref.path == path.name for ref in self.manifest.files) else None

    def _resolve_path(self, ref: FileRef) -> Path:
        return self.snapshot_dir / ref.path


def to_distance(metric: str, score: float) -> float:
    """Convert a FAISS score so that smaller is nearer.

    Returns:
        1 - score for cosine (at least 0, against rounding), -score for inner product, the score itself (a squared
        distance) for L2.
    """
    return {"cosine": max(0.0, 1 - score), "ip": -score, "l2": score}[metric]


def open_index(root: str | Path, name: str, snapshot_id: str | None = None) -> OpenIndex:
    """Open a snapshot for search.

    Args:
        root: The root directory that builds write to.
        name: The index.
        snapshot_id: The snapshot; the live one by default.

    Raises:
        InputError: There is no such root, index or snapshot.
        DamagedFile: A file is not as it was published.
    """
    storage_root = Root(root, create=False)
    try:
        return OpenIndex(storage_root, name, snapshot_id)
    finally:
        storage_root.close()  # the mapped item table is unlinked by now, so its scratch folder can go
