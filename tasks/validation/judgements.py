"""Match judgements with queries and items, and count those that name neither."""

from __future__ import annotations

from pathlib import Path

from indexmill.storage import parquet
from indexmill.storage.errors import InputError


def match_judgements(raw: Path, queries: Path, items: Path, target: Path, *, where: str, temp_dir: Path) -> dict[str, int]:
    """Write the judgements of the queries: query_id, item_id, item, grade, ordered by ids. Negative grades become 0, as in trec_eval.

    A judgement of an item that the data set lacks is kept: the item counts as relevant and not found, as in trec_eval.

    Args:
        raw: A table with the columns query, item, grade and item_id, as `tasks.sources.judgements` writes it.
        queries: A table with the columns item_id and key, the usable queries.
        items: The table of the items.
        target: The Parquet file to write.
        where: The setting that names the judgements, for errors.
        temp_dir: A folder for DuckDB's temporary files.

    Returns:
        How many judgements there are, and of these how many name no query, no item, have a negative grade or are repeated.

    Raises:
        InputError: No judgement names both a query and an item, or two judgements of one pair differ.
    """
    raw_sql, queries_sql, items_sql = (parquet.scan_sql(path) for path in (raw, queries, items))
    conflict_sql = (
        f"SELECT query, item, min(grade), max(grade) FROM {raw_sql} GROUP BY ALL HAVING min(grade) <> max(grade) ORDER BY ALL LIMIT 1"
    )
    for query, item, lowest, highest in parquet.fetch_rows(conflict_sql, temp_dir=temp_dir):
        raise InputError(
            "two judgements of one query and item differ",
            where=where,
            expected="one grade for each query and item",
            got=f"query {query}, item {item}: {lowest} and {highest}",
            next_step="keep the correct one",
        )
    matched = f"(SELECT q.item_id AS query_id, j.* FROM {raw_sql} j JOIN {queries_sql} q ON q.key = j.query)"
    counts_sql = (
        f"SELECT (SELECT count(*) FROM {raw_sql}), (SELECT count(*) FROM {raw_sql} ANTI JOIN {queries_sql} q ON q.key = query), "
        f"count(*) FILTER (i.item_id IS NULL), count(*) FILTER (grade < 0), count(*) - count(DISTINCT (query_id, j.item_id)), "
        f"count(i.item_id) FROM {matched} j LEFT JOIN {items_sql} i ON i.item_id = j.item_id"
    )
    total, without_query, without_item, negative, repeated, usable = parquet.fetch_rows(counts_sql, temp_dir=temp_dir)[0]
    if total and not usable:
        raise _build_mismatch_error(raw_sql, queries_sql, items_sql, without_query == total, where, temp_dir)
    sql = (
        f"SELECT query_id, item_id, any_value(item) AS item, greatest(max(grade), 0)::INTEGER AS grade FROM {matched} "
        "GROUP BY query_id, item_id ORDER BY query_id, item_id"
    )
    parquet.copy_query(sql, target, temp_dir=temp_dir)
    return {
        "judgements": int(total),
        "judgements_without_query": int(without_query),
        "judgements_without_item": int(without_item),
        "judgements_negative": int(negative),
        "judgements_repeated": int(repeated),
    }


def _build_mismatch_error(raw: str, queries: str, items: str, is_query: bool, where: str, temp_dir: Path) -> InputError:
    """Name an id of either side, since the two sides usually differ by a prefix or in the choice of column."""
    column, table, kind = ("query", queries, "query") if is_query else ("item", items, "item")
    judged = parquet.fetch_rows(f"SELECT min({column}) FROM {raw}", temp_dir=temp_dir)[0][0]
    existing = parquet.fetch_rows(f"SELECT min(key) FROM {table}", temp_dir=temp_dir)[0][0]
    return InputError(
        f"no judgement names {'a query' if is_query else 'an item'} of the data",
        where=where,
        expected=f"ids of {'queries' if is_query else 'items'} (their keys) such as {existing}",
        got=f"{kind} ids such as {judged}",
        next_step="correct the file, or "
        + ("the queries' id_column" if is_query else "dataset.key_column: judgements name items by their keys"),
    )
