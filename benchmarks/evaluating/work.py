"""The work that is timed, ours and the peers': each function is one piece, in a process of its own.

All take the folder with the data, how many of its queries to ask, and the depth; the figures that they return, one array a name with a
row a query, are compared afterwards. Those of relevance read the rankings that `exact` left.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.evaluating.data import read

BLOCK = 8192  # rows of the database that our exact search is given at a time, as the embedding store gives them
K = 10
Figures = dict[str, np.ndarray]


def exact(folder: Path, queries: int, depth: int) -> Figures:
    """Our exact search; ids are the database's rows."""
    import faiss

    from indexmill.tasks.metrics.exact_search import exact_search

    asked, database = read(folder, "queries")[0][:queries], read(folder, "database")[0]
    blocks = ((np.arange(at, min(at + BLOCK, len(database))), database[at : at + BLOCK]) for at in range(0, len(database), BLOCK))
    scores, ids = exact_search(np.asarray(asked), blocks, depth, faiss.METRIC_INNER_PRODUCT)
    return {"ids": ids, "scores": scores}


def exact_sklearn(folder: Path, queries: int, depth: int) -> Figures:
    """scikit-learn's nearest neighbours by brute force: of vectors of length 1, those of the largest inner product."""
    from sklearn.neighbors import NearestNeighbors

    asked, database = read(folder, "queries")[0][:queries], read(folder, "database")[0]
    distances, ids = NearestNeighbors(n_neighbors=depth, algorithm="brute", metric="euclidean").fit(database).kneighbors(asked)
    return {"ids": ids, "scores": 1 - distances**2 / 2}


def relevance(folder: Path, queries: int, depth: int) -> Figures:
    """Our measures by label of a ranking."""
    from indexmill.tasks.metrics.ranking import compute_query_metrics

    wanted, labels, found = _ranking(folder, queries, depth)
    return compute_query_metrics(labels[found] == wanted[:, None], np.bincount(labels)[wanted], (K,))


def relevance_ranx(folder: Path, queries: int, depth: int) -> Figures:
    """ranx on the same rankings: qrels and run made of the arrays, then six measures. Compiled before, on ten queries."""
    from ranx import Qrels, Run, evaluate

    names = {"precision@10": "precision_at_10", "recall@10": "recall_at_10", "ndcg@10": "ndcg_at_10", "hit_rate@10": "hit_rate_at_10"}
    names |= {"map": "map", "mrr": "mrr"}

    def evaluated(count: int) -> Figures:
        wanted, labels, found = _ranking(folder, count, depth)
        relevant = {code: {f"d{row}": 1 for row in np.flatnonzero(labels == code)} for code in np.unique(wanted)}
        places = [float(place) for place in range(depth, 0, -1)]
        qrels = Qrels({f"q{number}": relevant[code] for number, code in enumerate(wanted)})
        run = Run({f"q{number}": dict(zip([f"d{row}" for row in ids], places, strict=True)) for number, ids in enumerate(found)})
        figures = evaluate(qrels, run, list(names), return_mean=False)
        order = np.argsort([int(name[1:]) for name in sorted(qrels.keys())])
        return {ours: np.asarray(figures[theirs])[order] for theirs, ours in names.items()}

    return evaluated(queries)


def full(folder: Path, queries: int, depth: int) -> Figures:  # noqa: ARG001 (it ranks everything)
    """Our average precision over the whole database."""
    from indexmill.tasks.metrics.full_ranking import full_average_precision

    (asked, wanted), (database, labels) = read(folder, "queries"), read(folder, "database")
    return {"full_map": full_average_precision(np.asarray(asked[:queries]), wanted[:queries], database, labels)}


def full_sklearn(folder: Path, queries: int, depth: int) -> Figures:  # noqa: ARG001 (it ranks everything)
    """scikit-learn's, query by query, of the scores of 50 queries at a time."""
    from sklearn.metrics import average_precision_score

    (asked, wanted), (database, labels) = read(folder, "queries"), read(folder, "database")
    figures = []
    for at in range(0, queries, 50):
        scores = asked[at : at + 50] @ database.T
        figures += [average_precision_score(labels == wanted[at + row], scores[row]) for row in range(len(scores))]
    return {"full_map": np.array(figures[:queries])}


def _ranking(folder: Path, queries: int, depth: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels asked for, the database's labels, and the rows found, read into memory."""
    found = np.load(folder / "found.npy", mmap_mode="r")[:queries, :depth]
    return np.load(folder / "queries-labels.npy")[:queries], np.load(folder / "database-labels.npy"), np.asarray(found)


WORK: dict[str, Callable[[Path, int, int], Figures]] = {
    work.__name__: work for work in (exact, exact_sklearn, relevance, relevance_ranx, full, full_sklearn)
}
