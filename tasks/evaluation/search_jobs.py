"""Exact search of a large database by jobs: one per range of content digests, merged in the driver.

How the database is divided depends on its size alone, so that all runners get the same scores, bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np

from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.errors import DamagedFile
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.metrics.exact_search import exact_search, select_top_k
from indexmill.tasks.progress import Advance
from indexmill.tasks.runner import Runner, Work

BLOCK_ITEMS = 1_000_000  # about a minute on one core for 1,000 queries and 384 dimensions
PREFIX_DIGITS = 8  # hexadecimal digits of a content digest that decide about its range


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """Search one range of the database.

    Attributes:
        name: The job in messages.
        items: About how many items the range has; those of all jobs add up to the database.
        key: The search: the folder of its files.
        number: The range.
        digests: Its content digests, from the first up to, and without, the second.
        queries: A float32 array (n, dim) as .npy.
        embeddings: The vectors.
        k: Neighbors per query.
        metric: A FAISS metric type.
    """

    name: str
    items: int
    key: str
    number: int
    digests: tuple[str, str]
    queries: FileRef
    embeddings: EmbeddingSet
    k: int
    metric: int


def plan_search(root: Root, key: str, embeddings: EmbeddingSet, queries: np.ndarray, k: int, metric: int) -> list[SearchJob]:
    """Write the queries for the workers and return the jobs.

    Args:
        root: The storage root.
        key: Digest of all that the result depends on.
        embeddings: The set whose database side is searched.
        queries: float32 (n, dim).
        k: Neighbors per query.
        metric: A FAISS metric type.
    """
    ranges = split_digests(-(-embeddings.database // BLOCK_ITEMS))
    folder = root.jobs(f"search-{key[:32]}-{len(ranges)}")
    with root.replace_atomically(folder / "queries.npy") as temporary:
        np.save(temporary, queries)
    query_ref = root.make_ref(folder / "queries.npy")
    bounds = [embeddings.database * number // len(ranges) for number in range(len(ranges) + 1)]
    return [
        SearchJob(
            name=f"exact search {number + 1} of {len(ranges)}",
            items=bounds[number + 1] - bounds[number],
            key=folder.name,
            number=number,
            digests=digests,
            queries=query_ref,
            embeddings=embeddings,
            k=k,
            metric=metric,
        )
        for number, digests in enumerate(ranges)
    ]


def split_digests(count: int) -> list[tuple[str, str]]:
    """Split the hexadecimal digests into `count` ranges of equal width; "g" is above every digest."""
    bounds = [f"{16**PREFIX_DIGITS * number // count:0{PREFIX_DIGITS}x}" for number in range(count)]
    return list(zip(bounds, [*bounds[1:], "g"], strict=True))


def run_search_job(root: Root, job: SearchJob, advance: Advance) -> FileRef:
    """Search one range, and write scores float32 (n, k), ids int64 (n, k) and the number of items searched."""
    path = root.jobs(job.key) / f"block-{job.number:05d}.npz"
    if not root.exists(path):
        queries = np.load(root.verify_file(job.queries))
        with open_vectors(root, job.embeddings, side="database", digests=job.digests) as blocks:
            counter = _BlockCounter(blocks)
            scores, ids = exact_search(queries, counter, job.k, job.metric)
        with root.create_atomically(path) as temporary, temporary.open("wb") as file:
            np.savez(file, scores=scores, ids=ids, items=np.array(counter.items))
    advance(job.items)
    return root.make_ref(root.fetch(path))


def search_in_jobs(
    root: Root, jobs: list[SearchJob], embeddings: EmbeddingSet, runner: Runner, advance: Advance
) -> tuple[np.ndarray, np.ndarray]:
    """Run the jobs and merge their results. Returns scores and ids as `exact_search` does.

    Memory: the results of one job and of the merge. The jobs' files are removed at the end; those of a driver that was
    killed are reused.

    Raises:
        DamagedFile: Not every item of the database was searched.
    """
    higher_is_better = jobs[0].metric == faiss.METRIC_INNER_PRODUCT
    merged: tuple[np.ndarray, np.ndarray] | None = None
    items = 0
    for job, ref in runner.map(root, Work("exact-search", run_search_job), jobs, advance=advance):
        with np.load(root.verify_file(ref), allow_pickle=False) as file:
            found, items = (file["scores"], file["ids"]), items + int(file["items"])
        if merged:
            scores, ids = (np.hstack(pair) for pair in zip(merged, found, strict=True))
            found = select_top_k(scores, ids, job.k, higher_is_better=higher_is_better)
        merged = found
    root.remove_jobs(jobs[0].key)
    if merged is None or items != embeddings.database:
        raise DamagedFile(
            "the embedding store does not hold exactly one vector per item",
            where=f"embeddings/{embeddings.store_fingerprint}",
            expected=f"{embeddings.database} items",
            got=f"{items}",
            next_step="delete that folder and build again, which encodes everything again",
        )
    return merged


class _BlockCounter:
    """Passes blocks on and counts their items."""

    def __init__(self, blocks: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        self._blocks, self.items = blocks, 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for ids, block in self._blocks:
            self.items += len(ids)
            yield ids, block
