"""The embedding space on paper: a sample of the database side, drawn in two and three dimensions, and told in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from indexmill.storage import tables
from indexmill.storage.embeddings import vectors
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.measures.labels import UNLABELLED, Labels
from indexmill.tasks.measures.space import balanced_sample, gathered, knn_purity, principal_components, silhouette
from indexmill.tasks.measures.tsne import layouts

SAMPLE = 1500
COMPONENTS = 10
SECONDS = 40.0


def study_space(root: Root, embeddings: EmbeddingSet, labels: Labels, *, seed: int, seconds: float = SECONDS) -> dict[str, Any]:
    """PCA, t-SNE in 2D and 3D, kNN purity and silhouette of a seeded, label-balanced sample of at most SAMPLE database items.

    JSON-simple: `items` and `labels` (names or None) of the sample; `pca` with `points` (three a row) and `explained` (ten shares);
    `tsne`, a list of what was made within `seconds`, each with `rows` of the sample, `points`, `dimensions`, `perplexity`, `iterations`;
    `knn_purity_at_10` and `silhouette`, or None. `tsne_seconds` alone differs from run to run. Holds 8 bytes an item of the database.
    """
    ids = _database_ids(root, embeddings)
    wanted = ids[balanced_sample(labels.of(ids), SAMPLE, seed)]
    with vectors(root, embeddings, side="database") as blocks:
        items, sample = gathered(blocks, wanted)
    if len(sample) < 3:
        return {}
    codes = labels.of(items)
    points, explained = principal_components(sample, COMPONENTS, seed)
    rows, made = layouts(sample, codes, seed=seed, seconds=seconds)
    return {
        "items": items.tolist(),
        "labels": [None if code == UNLABELLED else labels.names[code] for code in codes],
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


def _database_ids(root: Root, embeddings: EmbeddingSet) -> np.ndarray:
    ids = [np.empty(0, np.int64)]
    sql = f"SELECT item_id FROM {tables.parquet(root.file(embeddings.items))} WHERE side = 'database' ORDER BY 1"
    with tables.query(sql, spill=root.tmp) as batches:
        ids += [batch.column("item_id").to_numpy() for batch in batches]
    return np.concatenate(ids)
