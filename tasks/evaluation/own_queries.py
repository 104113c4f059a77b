"""Queries of one's own: their vectors, their judgements, and rankings in the order of trec_eval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexmill.storage import parquet
from indexmill.storage.embedding_store import open_vectors
from indexmill.storage.records import EmbeddingSet, EncodedQueries, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.retrieval import RetrievalRun
from indexmill.tasks.metrics.qrels import Qrels


def load_query_vectors(
    root: Root, query_set: EncodedQueries, *, max_queries: int, include_leaks: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Load at most `max_queries` queries, judged ones before others: ids int64 (n,), ascending, and vectors float32 (n, dim).

    Args:
        root: The storage root.
        query_set: The queries.
        max_queries: The size of the seeded sample.
        include_leaks: Whether to keep queries that are nearly equal to an item.
        seed: The seed.
    """
    embeddings = query_set.embeddings
    chosen = _choose_ids(root, query_set, max_queries, include_leaks, seed)
    vectors = np.empty((len(chosen), embeddings.dim), np.float32)
    start = 0
    with open_vectors(root, embeddings, side="query", leaking=include_leaks) as blocks:
        for ids, block in blocks:
            kept = block[np.isin(ids, chosen)]
            vectors[start : start + len(kept)] = kept
            start += len(kept)
    return chosen, vectors


def load_qrels(root: Root, judgements: FileRef | None, query_ids: np.ndarray) -> Qrels:
    """Load the judgements of these queries, int64 (n,), ascending. Items that the data set lacks are among them, as in trec_eval."""
    rows, items, grades = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for batch in parquet.read_batches(root.file(judgements), ["query_id", "item_id", "grade"]) if judgements else ():
        judged = batch.column("query_id").to_numpy()
        positions = np.minimum(np.searchsorted(query_ids, judged), max(len(query_ids) - 1, 0))
        is_known = query_ids[positions] == judged if len(query_ids) else np.zeros(len(judged), bool)
        rows.append(positions[is_known])
        items.append(batch.column("item_id").to_numpy()[is_known])
        grades.append(batch.column("grade").to_numpy()[is_known].astype(np.float64))
    return Qrels(len(query_ids), np.concatenate(rows), np.concatenate(items), np.concatenate(grades))


def load_names(root: Root, embeddings: EmbeddingSet, ids: np.ndarray) -> dict[int, str]:
    """Load the keys of items or queries by their ids."""
    wanted = pa.table({"item_id": np.unique(ids)})
    sql = f"SELECT item_id, key FROM {parquet.scan_sql(root.file(embeddings.items))} SEMI JOIN wanted USING (item_id)"
    with parquet.query(sql, temp_dir=root.tmp, wanted=wanted.to_reader()) as batches:
        return {row["item_id"]: row["key"] for batch in batches for row in batch.to_pylist()}


def order_ties(run: RetrievalRun, names: dict[int, str]) -> RetrievalRun:
    """Order results with equal scores by descending name, byte by byte, as trec_eval does.

    Only neighboring ranks change places, so the first results stay those of a search for the largest k.

    Args:
        run: The rankings.
        names: The names of at least the results in `find_tied_ids`.
    """
    tied_ids = find_tied_ids(run)
    if not len(tied_ids):
        return run
    order = sorted(range(len(tied_ids)), key=lambda position: names[int(tied_ids[position])].encode())
    ranks = np.empty(len(tied_ids), np.int64)
    ranks[order] = np.arange(len(tied_ids))
    positions = np.minimum(np.searchsorted(tied_ids, run.retrieved), len(tied_ids) - 1)
    name_ranks = np.where(tied_ids[positions] == run.retrieved, ranks[positions], -1)
    is_new_score = np.zeros(run.scores.shape, bool)
    is_new_score[:, 1:] = run.scores[:, 1:] != run.scores[:, :-1]
    groups = np.cumsum(is_new_score, axis=1)
    columns = np.lexsort((-name_ranks, groups), axis=1)
    return replace(run, retrieved=np.take_along_axis(run.retrieved, columns, axis=1))


def find_tied_ids(run: RetrievalRun) -> np.ndarray:
    """Find the results whose score equals that of a neighboring rank: ids int64 (n,), ascending."""
    is_equal = (run.scores[:, 1:] == run.scores[:, :-1]) & (run.retrieved[:, 1:] >= 0)
    is_tied = np.zeros(run.retrieved.shape, bool)
    is_tied[:, 1:] |= is_equal
    is_tied[:, :-1] |= is_equal
    return np.unique(run.retrieved[is_tied])


def write_named_run(
    path: Path, run: RetrievalRun, query_names: dict[int, str], item_names: dict[int, str], *, higher_is_better: bool
) -> None:
    """Write one line per result: `query Q0 item rank score indexmill`, by the query's id and the item's key.

    Scores strictly decrease, so that every tool reads the same order: where they do not, the next smaller float32 is written.
    """
    scores = _make_strictly_decreasing(run.scores if higher_is_better else -run.scores)
    with path.open("w", encoding="utf-8") as file:
        for query_id, item_ids, row in zip(run.query_ids.tolist(), run.retrieved.tolist(), scores.tolist(), strict=True):
            query = quote_spaces(query_names[query_id])
            for rank, (item_id, score) in enumerate(zip(item_ids, row, strict=True), start=1):
                if item_id >= 0:
                    file.write(f"{query} Q0 {quote_spaces(item_names[item_id])} {rank} {score:.9g} indexmill\n")


def write_named_qrels(path: Path, root: Root, judgements: FileRef | None, query_names: dict[int, str]) -> None:
    """Write one line per judgement of the run's queries: `query 0 item grade`."""
    with path.open("w", encoding="utf-8") as file:
        for batch in parquet.read_batches(root.file(judgements)) if judgements else ():
            for row in batch.to_pylist():
                if (name := query_names.get(row["query_id"])) is not None:
                    file.write(f"{quote_spaces(name)} 0 {quote_spaces(row['item'])} {row['grade']}\n")


def quote_spaces(name: str) -> str:
    """Replace white space, which separates the fields of a line, by its percent-encoding."""
    return "".join("".join(f"%{byte:02X}" for byte in char.encode()) if char.isspace() else char for char in name)


def _choose_ids(root: Root, query_set: EncodedQueries, max_queries: int, include_leaks: bool, seed: int) -> np.ndarray:
    judged = "false"
    if query_set.judgements:
        judged = f"item_id IN (SELECT query_id FROM {parquet.scan_sql(root.file(query_set.judgements))})"
    where = "side = 'query'" + ("" if include_leaks else " AND NOT leak")
    sql = (
        f"SELECT item_id FROM {parquet.scan_sql(root.file(query_set.embeddings.items))} WHERE {where} "
        f"ORDER BY NOT ({judged}), md5('{seed}/' || item_id), item_id LIMIT {max_queries}"
    )
    rows: Iterable[tuple[int]] = parquet.fetch_rows(sql, temp_dir=root.tmp)
    return np.sort(np.array([item_id for (item_id,) in rows], np.int64))


def _make_strictly_decreasing(scores: np.ndarray) -> np.ndarray:
    """Lower each score, float32 (queries, depth), that is not below its predecessor to the next float32 below that."""
    scores = scores.copy()
    for rank in range(1, scores.shape[1]):
        limit = np.nextafter(scores[:, rank - 1], np.float32(-np.inf))
        scores[:, rank] = np.minimum(scores[:, rank], limit)
    return scores
