"""The embedding space on paper: the two directions in which a sample of it spreads most."""

from __future__ import annotations

from typing import Any

import numpy as np

from storage import tables
from storage.embeddings import joined, vectors
from storage.records import EmbeddingSet
from storage.root import Root

SAMPLE = 1500


def project(root: Root, embeddings: EmbeddingSet, *, seed: int) -> dict[str, Any]:
    """PCA (scikit-learn's) of at most SAMPLE database vectors: points [[x, y], …], their labels, and the share of variance explained."""
    from sklearn.decomposition import PCA  # here: importing it takes a second, and only this needs it

    with vectors(root, embeddings, side="database", sample=(SAMPLE, seed)) as blocks:
        ids, sample = joined(blocks, embeddings.dim)
    if len(sample) < 3:
        return {"points": [], "labels": [], "explained": []}
    pca = PCA(n_components=2, svd_solver="randomized", random_state=seed)
    points = pca.fit_transform(sample)
    sql = f"SELECT item_id, label FROM {tables.parquet(root.file(embeddings.items))} WHERE item_id IN ({', '.join(map(str, ids))})"
    labels = dict(tables.rows(sql, spill=root.tmp))
    return {
        "points": np.round(points, 5).tolist(),
        "labels": [labels[int(item)] for item in ids],
        "explained": [float(share) for share in pca.explained_variance_ratio_],
    }
