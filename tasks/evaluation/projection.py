"""Projections of the embedding space: PCA and t-SNE of a sample of the database side, with purity and silhouette.

The sample hardly changes as long as the items hardly do. PCA and the measures are computed for the sample of each build.
A t-SNE layout, which takes longer than the rest of a nightly evaluation, stays until more than MAX_PLACED_SHARE of its
points are of items that were not laid out with it; these are placed beside their nearest neighbors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from indexmill.storage import parquet
from indexmill.storage.digests import content_digest, json_digest
from indexmill.storage.embedding_store import read_items
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.labels import ItemLabels
from indexmill.tasks.metrics import embedding_space
from indexmill.tasks.metrics.embedding_space import (
    TsneLayout,
    compute_pca,
    compute_tsne,
    knn_purity,
    place_points,
    sample_balanced,
    silhouette,
)
from indexmill.tasks.metrics.per_label import UNLABELED

SAMPLE_SIZE = 1500
PCA_COMPONENTS = 10
TSNE_SECONDS = 40.0
MAX_PLACED_SHARE = 0.1


class _Sample(NamedTuple):
    """Items in the order of the draw: ids int64 (n,), content digests, label codes (n,), vectors float32 (n, dim)."""

    ids: np.ndarray
    contents: list[str]
    codes: np.ndarray
    vectors: np.ndarray


def project_embedding_space(
    root: Root,
    embeddings: EmbeddingSet,
    labels: ItemLabels,
    *,
    seed: int,
    seconds: float = TSNE_SECONDS,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Project a label-balanced sample of at most SAMPLE_SIZE database items, and measure how well labels separate in it.

    Items are drawn in the order of their contents' digests, from one that depends on the seed: the draw of an item does
    not depend on the others, and drawn items are in few parts of the embedding store. Holds 50 bytes per item of the database.

    Args:
        root: The storage root.
        embeddings: The items.
        labels: Their labels.
        seed: The seed of the sample and of the layouts.
        seconds: The time limit of t-SNE.
        earlier: What an earlier build returned, whose layouts may be used.

    Returns:
        JSON-ready data, empty for fewer than three items. `items`, `contents` (digests) and `labels` (None where missing) of
        the sample; `pca` with `points` (n, 3) and `explained` variance (ten shares); `layout_key`, what the layouts depend on
        besides the items; `tsne`, the layouts finished within `seconds`, each with `rows` of the sample, `points`,
        `dimensions`, `perplexity`, `iterations`, and `placed`, the points that were placed and not laid out;
        `tsne_seconds`, which differs from run to run; `knn_purity_at_10` and `silhouette`, or None.
    """
    sample = _draw_sample(root, embeddings, labels, seed)
    if len(sample.ids) < 3:
        return {}
    points, explained = compute_pca(sample.vectors, PCA_COMPONENTS, seed)
    key = json_digest([embeddings.fingerprint, embeddings.dim, seed, seconds, SAMPLE_SIZE, embedding_space.TSNE_ITERATIONS])
    layouts = _update_layouts(earlier, key, sample, seconds) or compute_tsne(sample.vectors, sample.codes, seed=seed, seconds=seconds)
    return {
        "items": sample.ids.tolist(),
        "contents": sample.contents,
        "labels": [None if code == UNLABELED else labels.names[code] for code in sample.codes],
        "pca": {"points": np.round(points[:, :3], 5).tolist(), "explained": explained.tolist()},
        "layout_key": key,
        "tsne": [_describe_layout(layouts[0], layout) for layout in layouts[1]],
        "tsne_seconds": [layout.seconds for layout in layouts[1]],
        "knn_purity_at_10": knn_purity(sample.vectors, sample.codes),
        "silhouette": silhouette(sample.vectors, sample.codes),
    }


def _describe_layout(rows: np.ndarray, layout: TsneLayout) -> dict[str, Any]:
    return {
        "rows": rows.tolist(),
        "points": np.round(layout.points, 4).tolist(),
        "dimensions": layout.dimensions,
        "perplexity": layout.perplexity,
        "iterations": layout.iterations,
        "placed": layout.placed.tolist(),
    }


def _draw_sample(root: Root, embeddings: EmbeddingSet, labels: ItemLabels, seed: int) -> _Sample:
    start = content_digest(str(seed).encode())
    sql = (
        f"SELECT item_id, content_digest FROM {parquet.scan_sql(root.file(embeddings.items))} WHERE side = 'database' "
        f"ORDER BY content_digest < '{start}', content_digest, item_id"
    )
    ids, contents = [np.empty(0, np.int64)], list[str]()
    with parquet.query(sql, temp_dir=root.tmp) as batches:
        for batch in batches:
            ids.append(batch.column("item_id").to_numpy())
            contents += batch.column("content_digest").to_pylist()
    drawn_ids = np.concatenate(ids)
    rows = sample_balanced(labels.lookup(drawn_ids), SAMPLE_SIZE)
    sample_ids = drawn_ids[rows]
    found_ids, vectors = read_items(root, embeddings, sample_ids)
    order = np.searchsorted(found_ids, sample_ids)
    return _Sample(sample_ids, [contents[row] for row in rows.tolist()], labels.lookup(sample_ids), vectors[order])


def _update_layouts(
    earlier: dict[str, Any] | None, key: str, sample: _Sample, seconds: float
) -> tuple[np.ndarray, list[TsneLayout]] | None:
    """Return today's rows and the earlier layouts with what is new placed in them; None if they have to be computed."""
    if not earlier or earlier.get("layout_key") != key or not earlier.get("tsne"):
        return None
    rows = sample_balanced(sample.codes, embedding_space.max_points_within(seconds))
    contents, vectors = [sample.contents[row] for row in rows.tolist()], sample.vectors[rows]
    layouts = []
    for entry in earlier["tsne"]:
        placed = set(entry["placed"])
        points = {
            earlier["contents"][row]: (point, number in placed)
            for number, (row, point) in enumerate(zip(entry["rows"], entry["points"], strict=True))
        }
        is_known = np.array([content in points for content in contents])
        is_placed = np.array([points.get(content, (None, True))[1] for content in contents])
        if is_placed.mean() > MAX_PLACED_SHARE or not is_known.any():
            return None
        unknown = [0.0] * entry["dimensions"]
        known_points = np.array([points.get(content, (unknown, True))[0] for content in contents], np.float64)
        layout = TsneLayout(known_points, entry["dimensions"], entry["perplexity"], entry["iterations"], 0.0, np.flatnonzero(is_placed))
        layouts.append(replace(layout, points=known_points if is_known.all() else place_points(known_points, is_known, vectors)))
    return rows, layouts
