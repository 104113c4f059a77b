"""Write the run and its qrels in the format of trec_eval; documents and topics are item ids."""

from __future__ import annotations

from pathlib import Path

from indexmill.storage import parquet
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.retrieval import RetrievalRun


def write_run(path: Path, run: RetrievalRun, higher_is_better: bool) -> None:
    """Write one line per result: `topic Q0 document rank score indexmill`. Distances are negated: trec_eval ranks by descending score."""
    sign = 1 if higher_is_better else -1
    with path.open("w", encoding="ascii") as file:
        for query_id, item_ids, scores in zip(run.query_ids.tolist(), run.retrieved.tolist(), run.scores.tolist(), strict=True):
            for rank, (item_id, score) in enumerate(zip(item_ids, scores, strict=True), start=1):
                if item_id >= 0:
                    file.write(f"{query_id} Q0 {item_id} {rank} {sign * score:.9g} indexmill\n")


def write_qrels(
    path: Path, root: Root, indexed: EmbeddingSet, per_query: Path, pairs: FileRef | None, relevance_threshold: float | None
) -> None:
    """Write one line per relevant item of the database: `topic 0 document gain`.

    The gain is 1 for relevance by label, and the rounded score for relevance by pairs. A query's own duplicates are left out, as in the
    metrics.
    """
    items = parquet.scan_sql(root.file(indexed.items))
    queries = f"(SELECT item_id AS query, label FROM {parquet.scan_sql(per_query)} WHERE relevant > 0)"
    database = f"(SELECT item_id, label, content_group FROM {items} WHERE side = 'database')"
    query_groups = f"(SELECT item_id AS query, content_group AS query_group FROM {items})"
    if pairs is None or relevance_threshold is None:
        gains = f"SELECT query, item_id, 1 AS gain FROM {queries} JOIN {database} USING (label)"
    else:
        table = parquet.scan_sql(root.file(pairs))
        directions = f"SELECT item_a AS query, item_b AS item_id, score FROM {table} UNION ALL SELECT item_b, item_a, score FROM {table}"
        gains = (
            f"SELECT query, item_id, max(round(score)::INTEGER) AS gain FROM ({directions}) SEMI JOIN {queries} USING (query) "
            f"SEMI JOIN {database} USING (item_id) WHERE score >= {relevance_threshold:f} GROUP BY ALL"
        )
    sql = (
        f"SELECT query, item_id, gain FROM ({gains}) JOIN {database} d USING (item_id) LEFT JOIN {query_groups} USING (query) "
        "WHERE query <> item_id AND query_group IS DISTINCT FROM d.content_group ORDER BY query, item_id"
    )
    with path.open("w", encoding="ascii") as file, parquet.query(sql, temp_dir=root.tmp) as batches:
        for batch in batches:
            for row in batch.to_pylist():
                file.write(f"{row['query']} 0 {row['item_id']} {row['gain']}\n")
