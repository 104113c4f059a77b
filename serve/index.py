"""Open a published snapshot and search it from Python."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from indexmill.serve.encoder import QueryEncoder
from indexmill.serve.items import FILTER_COLUMNS, ItemTable
from indexmill.serve.published import PublishedIndex
from indexmill.serve.queries import (
    InvalidQuery,
    QueryImage,
    check_modality,
    query_modalities,
    read_query_image,
    read_query_text,
    read_query_vectors,
)
from indexmill.storage.records import Modality
from indexmill.storage.root import Root, verify_file
from indexmill.tasks.indexing.filtered_search import reconstruct_vectors, search_filtered

WhereFilter = Mapping[Any, str | Sequence[str]]


class SearchResult(NamedTuple):
    """One item found. score: as FAISS gives it. distance: see `distance`, smaller is nearer whatever the metric."""

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
    """What a snapshot answered: for each query its results, best first, and the milliseconds that encoding and searching took."""

    name: str
    snapshot_id: str
    metric: str
    results: list[list[SearchResult]]
    encode_ms: float
    search_ms: float


class OpenIndex:
    """One snapshot of one index. Its files were checked by digest when it was opened; it stays that snapshot whatever is published later.

    In memory are the codes of the index, ids of items, and the encoder once something was encoded. It may be shared between threads.
    """

    def __init__(self, root: Root, name: str, snapshot_id: str | None = None, *, encoder: QueryEncoder | None = None) -> None:
        self.published = PublishedIndex(root, name, snapshot_id)
        self.manifest = self.published.manifest
        self.folder = root.index(name) / "snapshots" / self.manifest.snapshot_id
        shards = {ref.path for shard in self.manifest.shards for ref in shard.files}
        for ref in self.manifest.files:
            if ref.path not in shards:  # those are checked as the searcher opens them
                verify_file(self.folder / ref.path, ref)
        self.searcher = self.published.searcher
        self.items = ItemTable(self.folder / "items.parquet", root.scratch)
        self.encoder = encoder or QueryEncoder(self.published)
        self._search_lock = Lock()

    def search(
        self, *, texts: Sequence[str] | None = None, images: Sequence[QueryImage] | None = None, vectors: Any = None,
        items: Sequence[int] | None = None, k: int = 10, label: str | None = None, where: WhereFilter | None = None, rerank: bool = True,
    ) -> SearchResults:  # fmt: skip
        """The k best items for each of the texts, images (bytes, paths or Pillow images), vectors, or items of the index by id.

        label: only items with this label. where: only items with one of the values given for a column (label, key, side, given_split).
        rerank: rank candidates again by their full vectors, where the index has them. Raises BadQuery for what cannot be asked.
        """
        start = time.perf_counter()
        queries = self._resolve_query_vectors(texts, images, vectors, items)
        encoded = time.perf_counter()
        allowed_ids = self.select_ids(label, where)
        with self._search_lock:  # one after another, each with all of FAISS's threads
            scores_and_ids = self.search_vectors(queries, k, allowed_ids, rerank=rerank)
        searched = time.perf_counter()
        results = self.make_results(*scores_and_ids)
        spent = {"encode_ms": (encoded - start) * 1000, "search_ms": (searched - encoded) * 1000}
        return SearchResults(self.manifest.name, self.manifest.snapshot_id, self.manifest.metric, results, **spent)

    def warm_up(self) -> None:
        """Load the encoder and touch what the first query would have to wait for."""
        for modality in query_modalities(self.manifest):
            sample = self.text("warm") if modality == "text" else self.picture(Image.new("RGB", (64, 64)))
            self.search_vectors(self._encode([sample], modality), 10)

    def picture(self, picture: QueryImage, max_pixels: float = float("inf")) -> Any:
        """A picture as the encoder takes it."""
        check_modality(self.manifest, "image")
        decode_size = self.encoder.side("image").decode_size
        return self.encoder.preprocess(read_query_image(self.manifest, picture, max_pixels, decode_size), "image")

    def text(self, text: str) -> Any:
        """A text as the encoder takes it."""
        check_modality(self.manifest, "text")
        return self.encoder.preprocess(read_query_text(text), "text")

    def reconstruct_vectors(self, ids: Sequence[int]) -> np.ndarray:
        """The vectors of items, float32 (n, dim). Raises BadQuery for an id that the index does not hold."""
        try:
            with self._search_lock:
                return read_query_vectors(self.manifest, reconstruct_vectors(self.searcher, list(ids)))
        except KeyError as problem:
            raise InvalidQuery("the index does not hold this item", got=f"item {problem.args[0]}") from None

    def select_ids(self, label: str | None = None, where: WhereFilter | None = None) -> np.ndarray | None:
        """The ids that a filter leaves, int64 ascending; None without one."""
        filters = {**({} if label is None else {"label": label}), **(where or {})}
        if other := [column for column in filters if column not in FILTER_COLUMNS]:
            raise InvalidQuery("items cannot be chosen by this", expected=" or ".join(FILTER_COLUMNS), got=", ".join(other))
        return (
            self.items.filter_ids({name: [given] if isinstance(given, str) else given for name, given in filters.items()})
            if filters
            else None
        )

    def search_vectors(
        self, queries: np.ndarray, k: int, allowed_ids: np.ndarray | None = None, *, rerank: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids (n, k) of the best items for vectors as `read_query_vectors` gives them; id -1 where there are fewer.

        Several threads may do this at once, and should then use one thread of FAISS each (`use_single_thread`).
        """
        if k < 1:
            raise InvalidQuery("k is too small", expected="1 or more", got=str(k))
        k = min(k, self.searcher.items if allowed_ids is None else len(allowed_ids))
        if not k or not len(queries):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        return search_filtered(self.searcher, queries, k, allowed_ids=allowed_ids, rerank=rerank)

    def make_results(self, scores: np.ndarray, ids: np.ndarray) -> list[list[SearchResult]]:
        """The results of what `search_vectors` found."""
        return [
            [SearchResult(rank, item, score, distance(self.manifest.metric, score), row["key"], row["label"], row["text"], row["path"])
             for rank, (item, score, row) in enumerate(zip(line, values, self.items.rows(line), strict=True), start=1) if row is not None]
            for line, values in zip(ids.tolist(), scores.tolist(), strict=True)
        ]  # fmt: skip

    def _resolve_query_vectors(
        self, texts: Sequence[str] | None, images: Sequence[QueryImage] | None, vectors: Any, items: Sequence[int] | None
    ) -> np.ndarray:  # fmt: skip
        given = {"texts": texts, "images": images, "vectors": vectors, "items": items}
        if len(named := [name for name, value in given.items() if value is not None]) != 1:
            raise InvalidQuery(
                "ask with one kind of query", expected="one of " + ", ".join(given), got=" and ".join(named) or "nothing to look for"
            )
        if texts is not None:
            return self._encode([self.text(text) for text in texts], "text")
        if images is not None:
            return self._encode([self.picture(image) for image in images], "image")
        return read_query_vectors(self.manifest, vectors) if items is None else self.reconstruct_vectors(items)

    def _encode(self, prepared: Sequence[Any], modality: Modality) -> np.ndarray:
        return read_query_vectors(self.manifest, self.encoder.encode(prepared, modality))


def distance(metric: str, score: float) -> float:
    """Smaller is nearer: 1 - cosine (rounding never makes it negative), minus the inner product, or the squared distance as it is."""
    return {"cosine": max(0.0, 1 - score), "ip": -score, "l2": score}[metric]


def open_index(root: str | Path, name: str, snapshot_id: str | None = None) -> OpenIndex:
    """Open the live snapshot of an index, or the one that is named, below a root directory.

    Raises InputError where there is none, DamagedFile where a file of it is not as it was published.
    """
    storage_root = Root(root, create=False)
    try:
        return OpenIndex(storage_root, name, snapshot_id)
    finally:
        storage_root.close()  # the mapped table of items has no name by now
