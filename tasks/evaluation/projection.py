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
    """Project a seeded, label-balanced sample of at most SAMPLE_SIZE database items, and measure how well labels separate in it.

    Holds 8 bytes per item of the database. Only `tsne_seconds` differs from run to run.

    Returns:
        JSON-ready data, empty for fewer than three items. `items` and `labels` (None where missing) of the sample; `pca` with `points`
        (n, 3) and `explained` variance (ten shares); `tsne`, the layouts finished within `seconds`, each with `rows` of the sample,
        `points`, `dimensions`, `perplexity` and `iterations`; `knn_purity_at_10` and `silhouette`, or None.
    """
    database_ids = _read_database_ids(root, embeddings)
    sample_ids = database_ids[sample_balanced(labels.lookup(database_ids), SAMPLE_SIZE, seed)]
    with open_vectors(root, embeddings, side="database") as blocks:
        items, sample = select_vectors(blocks, sample_ids)
    if len(sample) < 3:
        return {}
    codes = labels.lookup(items)
    points, explained = compute_pca(sample, PCA_COMPONENTS, seed)
    rows, layouts = compute_tsne(sample, codes, seed=seed, seconds=seconds)
    return {
        "items": items.tolist(),
        "labels": [None if code == UNLABELED else labels.names[code] for code in codes],
        "pca": {"points": np.round(points[:, :3], 5).tolist(), "explained": explained.tolist()},
        "tsne": [
            {
                "rows": rows.tolist(),
                "points": np.round(layout.points, 4).tolist(),
                "dimensions": layout.dimensions,
                "perplexity": layout.perplexity,
                "iterations": layout.iterations,
            }
            for layout in layouts
        ],
        "tsne_seconds": [layout.seconds for layout in layouts],
        "knn_purity_at_10": knn_purity(sample, codes),
        "silhouette": silhouette(sample, codes),
    }


def _read_database_ids(root: Root, embeddings: EmbeddingSet) -> np.ndarray:
    sql = f"SELECT item_id FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database' ORDER BY 1"
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        return np.concatenate([np.empty(0, np.int64), *(batch.column("item_id").to_numpy() for batch in batches)])
