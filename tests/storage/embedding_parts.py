"""Write parts of an embedding store from arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexmill.storage.embedding_store import EmbeddingStore, StorageDtype, open_part


def add_vectors(
    store: EmbeddingStore, item_ids: Sequence[int], digests: Sequence[str], vectors: np.ndarray, storage_dtype: StorageDtype = "float32"
) -> None:
    """Commit one part of float32 (n, dim) vectors, row i for item_ids[i] and digests[i]."""
    with store.add_part() as temporary, open_part(temporary, vectors.shape[1], storage_dtype) as part:
        part.write(item_ids, digests, np.zeros(len(vectors), bool), vectors)
