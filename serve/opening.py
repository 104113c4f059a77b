"""A published snapshot, opened to be asked from Python."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from indexmill.serve.encoding import QueryEncoder
from indexmill.serve.items import FILTERS, ItemTable
from indexmill.serve.queries import BadQuery, Picture, check_modality, read_picture, read_text, read_vectors, taken
from indexmill.storage.records import Modality
from indexmill.storage.root import Root, verified
from indexmill.tasks.indexes.narrowing import search_narrowed, vectors_of
from indexmill.tasks.indexes.published import PublishedIndex

Where = Mapping[Any, str | Sequence[str]]


class Result(NamedTuple):
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
class Answer:
    """What a snapshot answered: for each query its results, best first, and the milliseconds that encoding and searching took."""

    name: str
    snapshot_id: str
    metric: str
    results: list[list[Result]]
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
                verified(self.folder / ref.path, ref)
        self.searcher = self.published.searcher
        self.items = ItemTable(self.folder / "items.parquet", root.scratch)
        self.encoder = encoder or QueryEncoder(self.published)
        self._searching = Lock()

    def search(
        self, *, texts: Sequence[str] | None = None, images: Sequence[Picture] | None = None, vectors: Any = None,
        items: Sequence[int] | None = None, k: int = 10, label: str | None = None, where: Where | None = None, rerank: bool = True,
    ) -> Answer:  # fmt: skip
        """The k best items for each of the texts, images (bytes, paths or Pillow images), vectors, or items of the index by id.

        label: only items with this label. where: only items with one of the values given for a column (label, key, side, given_split).
        rerank: rank candidates again by their full vectors, where the index has them. Raises BadQuery for what cannot be asked.
        """
        start = time.perf_counter()
        queries = self._vectors(texts, images, vectors, items)
        encoded = time.perf_counter()
        within = self.chosen(label, where)
        with self._searching:  # one after another, each with all of FAISS's threads
            found = self.find(queries, k, within, rerank=rerank)
        searched = time.perf_counter()
        results = self.described(*found)
        spent = {"encode_ms": (encoded - start) * 1000, "search_ms": (searched - encoded) * 1000}
        return Answer(self.manifest.name, self.manifest.snapshot_id, self.manifest.metric, results, **spent)

    def warm(self) -> None:
        """Load the encoder and touch what the first query would have to wait for."""
        for modality in taken(self.manifest):
            sample = self.text("warm") if modality == "text" else self.picture(Image.new("RGB", (64, 64)))
            self.find(self._encoded([sample], modality), 10)

    def picture(self, picture: Picture, max_pixels: float = float("inf")) -> Any:
        """A picture as the encoder takes it."""
        check_modality(self.manifest, "image")
        wants = self.encoder.side("image").wants
        return self.encoder.prepare(read_picture(self.manifest, picture, max_pixels, wants), "image")

    def text(self, text: str) -> Any:
        """A text as the encoder takes it."""
        check_modality(self.manifest, "text")
        return self.encoder.prepare(read_text(text), "text")

    def vectors_of(self, ids: Sequence[int]) -> np.ndarray:
        """The vectors of items, float32 (n, dim). Raises BadQuery for an id that the index does not hold."""
        try:
            with self._searching:
                return read_vectors(self.manifest, vectors_of(self.searcher, list(ids)))
        except KeyError as problem:
            raise BadQuery("the index does not hold this item", got=f"item {problem.args[0]}") from None

    def chosen(self, label: str | None = None, where: Where | None = None) -> np.ndarray | None:
        """The ids that a filter leaves, int64 ascending; None without one."""
        asked = {**({} if label is None else {"label": label}), **(where or {})}
        if other := [column for column in asked if column not in FILTERS]:
            raise BadQuery("items cannot be chosen by this", expected=" or ".join(FILTERS), got=", ".join(other))
        return self.items.matching({name: [given] if isinstance(given, str) else given for name, given in asked.items()}) if asked else None

    def find(self, queries: np.ndarray, k: int, within: np.ndarray | None = None, *, rerank: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids (n, k) of the best items for vectors as `read_vectors` gives them; id -1 where there are fewer.

        Several threads may do this at once, and should then use one thread of FAISS each (`one_thread_here`).
        """
        if k < 1:
            raise BadQuery("k is too small", expected="1 or more", got=str(k))
        k = min(k, self.searcher.items if within is None else len(within))
        if not k or not len(queries):
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        return search_narrowed(self.searcher, queries, k, within=within, rerank=rerank)

    def described(self, scores: np.ndarray, ids: np.ndarray) -> list[list[Result]]:
        """The results of what `find` found."""
        return [
            [Result(rank, item, score, distance(self.manifest.metric, score), row["key"], row["label"], row["text"], row["path"])
             for rank, (item, score, row) in enumerate(zip(line, values, self.items.rows(line), strict=True), start=1) if row is not None]
            for line, values in zip(ids.tolist(), scores.tolist(), strict=True)
        ]  # fmt: skip

    def _vectors(
        self, texts: Sequence[str] | None, images: Sequence[Picture] | None, vectors: Any, items: Sequence[int] | None
    ) -> np.ndarray:  # fmt: skip
        given = {"texts": texts, "images": images, "vectors": vectors, "items": items}
        if len(named := [name for name, value in given.items() if value is not None]) != 1:
            raise BadQuery(
                "ask with one kind of query", expected="one of " + ", ".join(given), got=" and ".join(named) or "nothing to look for"
            )
        if texts is not None:
            return self._encoded([self.text(text) for text in texts], "text")
        if images is not None:
            return self._encoded([self.picture(image) for image in images], "image")
        return read_vectors(self.manifest, vectors) if items is None else self.vectors_of(items)

    def _encoded(self, prepared: Sequence[Any], modality: Modality) -> np.ndarray:
        return read_vectors(self.manifest, self.encoder.encode(prepared, modality))


def distance(metric: str, score: float) -> float:
    """Smaller is nearer: 1 - cosine (rounding never makes it negative), minus the inner product, or the squared distance as it is."""
    return {"cosine": max(0.0, 1 - score), "ip": -score, "l2": score}[metric]


def open_index(root: str | Path, name: str, snapshot_id: str | None = None) -> OpenIndex:
    """Open the live snapshot of an index, or the one that is named, below a root directory.

    Raises InputError where there is none, DamagedFile where a file of it is not as it was published.
    """
    place = Root(root, create=False)
    try:
        return OpenIndex(place, name, snapshot_id)
    finally:
        place.close()  # the mapped table of items has no name by now
