"""A run and its qrels in trec_eval's form, for those who have their own tools; documents and topics are item ids."""

from __future__ import annotations

from pathlib import Path

from indexmill.storage import parquet
from indexmill.storage.records import EmbeddingSet, FileRef
from indexmill.storage.root import Root
from indexmill.tasks.evaluation.retrieval import RetrievalRun


def write_run(path: Path, run: RetrievalRun, higher_is_better: bool) -> None:
    """`topic Q0 document rank score indexmill`, a line a result; distances are told negative, since trec_eval takes larger for better."""
    sign = 1 if higher_is_better else -1
    with path.open("w", encoding="ascii") as file:
        for query, retrieved, scores in zip(run.ids.tolist(), run.retrieved.tolist(), run.scores.tolist(), strict=True):
            for rank, (item, score) in enumerate(zip(retrieved, scores, strict=True), start=1):
                if item >= 0:
                    file.write(f"{query} Q0 {item} {rank} {sign * score:.9g} indexmill\n")


def write_qrels(
    path: Path, root: Root, indexed: EmbeddingSet, per_query: Path, pairs: FileRef | None, relevance_threshold: float | None
) -> None:
    """`topic 0 document gain`, a line a relevant item of the database: by label with gain 1, by pairs with the score, rounded.

    A query's own duplicates are left out, as in the figures.
    """
    items = parquet.scan_sql(root.file(indexed.items))
    queries = f"(SELECT item_id AS query, label FROM {parquet.scan_sql(per_query)} WHERE relevant > 0)"
    database = f"(SELECT item_id, label, content_group FROM {items} WHERE side = 'database')"
    groups = f"(SELECT item_id AS query, content_group AS own FROM {items})"
    if pairs is None or relevance_threshold is None:
        joined = f"SELECT query, item_id, 1 AS gain FROM {queries} JOIN {database} USING (label)"
    else:
        scored = parquet.scan_sql(root.file(pairs))
        either = f"SELECT item_a AS query, item_b AS item_id, score FROM {scored} UNION ALL SELECT item_b, item_a, score FROM {scored}"
        joined = (
            f"SELECT query, item_id, max(round(score)::INTEGER) AS gain FROM ({either}) SEMI JOIN {queries} USING (query) "
            f"SEMI JOIN {database} USING (item_id) WHERE score >= {relevance_threshold:f} GROUP BY ALL"
        )
    sql = (
        f"SELECT query, item_id, gain FROM ({joined}) JOIN {database} d USING (item_id) LEFT JOIN {groups} USING (query) "
        "WHERE query <> item_id AND own IS DISTINCT FROM d.content_group ORDER BY query, item_id"
    )
    with path.open("w", encoding="ascii") as file, parquet.query(sql, temp_dir=root.tmp) as batches:
        for batch in batches:
            for row in batch.to_pylist():
                file.write(f"{row['query']} 0 {row['item_id']} {row['gain']}\n")
