"""Projections of the embedding space: PCA and t-SNE of a sample of the database side, with purity and silhouette."""

from __future__ import annotations

from typing import Any

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.labels import ItemLabels
from indexmill.tasks.metrics.embedding_space import compute_pca, compute_tsne, knn_purity, sample_balanced, select_vectors, silhouette
from indexmill.tasks.metrics.per_label import UNLABELED

SAMPLE_SIZE = 1500
PCA_COMPONENTS = 10
TSNE_SECONDS = 40.0


def project_embedding_space(
    root: Root, embeddings: EmbeddingSet, labels: ItemLabels, *, seed: int, seconds: float = TSNE_SECONDS
) -> dict[str, Any]:
    """PCA, t-SNE in 2D and 3D, kNN purity and silhouette of a seeded, label-balanced sample of at most SAMPLE database items.

    JSON-simple: `items` and `labels` (names or None) of the sample; `pca` with `points` (three a row) and `explained` (ten shares);
    `tsne`, a list of what was made within `seconds`, each with `rows` of the sample, `points`, `dimensions`, `perplexity`, `iterations`;
    `knn_purity_at_10` and `silhouette`, or None. `tsne_seconds` alone differs from run to run. Holds 8 bytes an item of the database.
    """
    ids = _read_database_ids(root, embeddings)
    wanted = ids[sample_balanced(labels.lookup(ids), SAMPLE_SIZE, seed)]
    with open_vectors(root, embeddings, side="database") as blocks:
        items, sample = select_vectors(blocks, wanted)
    if len(sample) < 3:
        return {}
    codes = labels.lookup(items)
    points, explained = compute_pca(sample, PCA_COMPONENTS, seed)
    rows, made = compute_tsne(sample, codes, seed=seed, seconds=seconds)
    return {
        "items": items.tolist(),
        "labels": [None if code == UNLABELED else labels.names[code] for code in codes],
        "pca": {"points": np.round(points[:, :3], 5).tolist(), "explained": explained.tolist()},
        "tsne": [
            {"rows": rows.tolist(), "points": np.round(layout.points, 4).tolist(), "dimensions": layout.dimensions,
             "perplexity": layout.perplexity, "iterations": layout.iterations}
            for layout in made
        ],
        "tsne_seconds": [layout.seconds for layout in made],
        "knn_purity_at_10": knn_purity(sample, codes),
        "silhouette": silhouette(sample, codes),
    }  # fmt: skip


def _read_database_ids(root: Root, embeddings: EmbeddingSet) -> np.ndarray:
    ids = [np.empty(0, np.int64)]
    sql = f"SELECT item_id FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database' ORDER BY 1"
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        ids += [batch.column("item_id").to_numpy() for batch in batches]
    return np.concatenate(ids)
