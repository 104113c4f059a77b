"""The pieces that are timed, ours and the peers', each in a process of its own.

Each function takes the folder with the data, the number of queries and the depth, and returns metrics, one row per query. They are compared
afterwards. The relevance pieces read the rankings that `exact` wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.evaluating.data import read_data

BLOCK = 8192  # database rows per block, as the embedding store yields them
K = 10
Metrics = dict[str, np.ndarray]


def exact(folder: Path, queries: int, depth: int) -> Metrics:
    """Search exactly with our code; ids are database rows."""
    import faiss

    from indexmill.tasks.metrics.exact_search import exact_search

    query_vectors, database = read_data(folder, "queries")[0][:queries], read_data(folder, "database")[0]
    blocks = (
        (np.arange(start, min(start + BLOCK, len(database))), database[start : start + BLOCK]) for start in range(0, len(database), BLOCK)
    )
    scores, ids = exact_search(np.asarray(query_vectors), blocks, depth, faiss.METRIC_INNER_PRODUCT)
    return {"ids": ids, "scores": scores}


def exact_sklearn(folder: Path, queries: int, depth: int) -> Metrics:
    """Search with scikit-learn's brute force; for vectors of length 1 the nearest have the largest inner product."""
    from sklearn.neighbors import NearestNeighbors

    query_vectors, database = read_data(folder, "queries")[0][:queries], read_data(folder, "database")[0]
    distances, ids = NearestNeighbors(n_neighbors=depth, algorithm="brute", metric="euclidean").fit(database).kneighbors(query_vectors)
    return {"ids": ids, "scores": 1 - distances**2 / 2}


def relevance(folder: Path, queries: int, depth: int) -> Metrics:
    """Compute our metrics by label of a ranking."""
    from indexmill.tasks.metrics.ranking import compute_query_metrics

    query_labels, labels, rows = _read_ranking(folder, queries, depth)
    return compute_query_metrics(labels[rows] == query_labels[:, None], np.bincount(labels)[query_labels], (K,))


def relevance_ranx(folder: Path, queries: int, depth: int) -> Metrics:
    """Compute six metrics of the same rankings with ranx, including the conversion to its qrels and run."""
    from ranx import Qrels, Run, evaluate

    names = {"precision@10": "precision_at_10", "recall@10": "recall_at_10", "ndcg@10": "ndcg_at_10", "hit_rate@10": "hit_rate_at_10"}
    names |= {"map": "map", "mrr": "mrr"}

    def evaluate_queries(count: int) -> Metrics:
        query_labels, labels, rows = _read_ranking(folder, count, depth)
        relevant = {code: {f"d{row}": 1 for row in np.flatnonzero(labels == code)} for code in np.unique(query_labels)}
        scores = [float(score) for score in range(depth, 0, -1)]
        qrels = Qrels({f"q{number}": relevant[code] for number, code in enumerate(query_labels)})
        run = Run({f"q{number}": dict(zip([f"d{row}" for row in ids], scores, strict=True)) for number, ids in enumerate(rows)})
        metrics = evaluate(qrels, run, list(names), return_mean=False)
        order = np.argsort([int(name[1:]) for name in sorted(qrels.keys())])
        return {name: np.asarray(metrics[ranx_name])[order] for ranx_name, name in names.items()}

    return evaluate_queries(queries)


def full(folder: Path, queries: int, depth: int) -> Metrics:  # noqa: ARG001 (it ranks everything)
    """Compute our average precision over the whole database."""
    from indexmill.tasks.metrics.full_ranking import full_average_precision

    (query_vectors, query_labels), (database, labels) = read_data(folder, "queries"), read_data(folder, "database")
    return {"full_map": full_average_precision(np.asarray(query_vectors[:queries]), query_labels[:queries], database, labels)}


def full_sklearn(folder: Path, queries: int, depth: int) -> Metrics:  # noqa: ARG001 (it ranks everything)
    """Compute scikit-learn's average precision query by query, from the scores of 50 queries at a time."""
    from sklearn.metrics import average_precision_score

    (query_vectors, query_labels), (database, labels) = read_data(folder, "queries"), read_data(folder, "database")
    metrics = []
    for start in range(0, queries, 50):
        scores = query_vectors[start : start + 50] @ database.T
        metrics += [average_precision_score(labels == query_labels[start + row], scores[row]) for row in range(len(scores))]
    return {"full_map": np.array(metrics[:queries])}


def _read_ranking(folder: Path, queries: int, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the query labels, the database labels, and the retrieved rows into memory."""
    rows = np.load(folder / "found.npy", mmap_mode="r")[:queries, :depth]
    return np.load(folder / "queries-labels.npy")[:queries], np.load(folder / "database-labels.npy"), np.asarray(rows)


WORK: dict[str, Callable[[Path, int, int], Metrics]] = {
    piece.__name__: piece for piece in (exact, exact_sklearn, relevance, relevance_ranx, full, full_sklearn)
}
