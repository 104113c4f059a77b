"""Ground truth: the exact nearest neighbours of the queries, remembered as long as queries and database stay what they are."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexmill.storage.digests import json_digest
from indexmill.storage.embeddings import vectors
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.answers import Answers
from indexmill.tasks.measures.neighbours import exact_search
from indexmill.tasks.progress import track


@dataclass(frozen=True)
class Truth:
    """scores float32 and ids int64, both (queries, k), best first, and the file that holds them."""

    scores: np.ndarray
    ids: np.ndarray
    file: FileRef


def ground_truth(root: Root, folder: Path, held: EmbeddingSet, asked: EmbeddingSet, given: Answers, k: int, metric: int) -> Truth:
    """Exact search of the database side, block by block, unless `folder` has it for these very queries and this very database.

    The key is made of the digests of both sides' vectors, the query ids, k and the metric; how the index is made is not in it.
    """
    key = json_digest([held.digest, held.modality, asked.digest, asked.modality, given.ids.tolist(), k, metric])
    path = folder / f"truth-{key[:16]}.npz"
    if path.exists() and (known := _read(path, key)):
        return Truth(*known, root.ref(path))
    with track("exact search", held.database) as advance, vectors(root, held, side="database") as blocks:

        def counted() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for block_ids, block in blocks:
                yield block_ids, block
                advance(len(block_ids))

        scores, found = exact_search(given.vectors, counted(), k, metric)
    with root.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, scores=scores, ids=found, key=np.array(key))
    return Truth(scores, found, root.ref(path))


def _read(path: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What the file holds, if it is whole and this key's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return (file["scores"], file["ids"]) if str(file["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
