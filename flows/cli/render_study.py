"""Print the results of a study: one table per encoder, and what to build next."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

STUDY_COLUMNS = (
    "index",
    "params",
    "recall@10\nexact",
    "queries/s\nbatch",
    "p50 ms\nsingle",
    "P@10\nlabel",
    "R@10\nlabel",
    "mAP\nlabel",
    "build\ns",
    "bytes per\nvector",
)
STUDY_MIN_WIDTH = 130  # characters: in a narrow window, wrapped rows are easier to read than missing columns


def print_study(study_result: dict[str, Any]) -> None:
    """Print one table per encoder with its best row marked, where the files are, and what to build."""
    console = Console(soft_wrap=True, highlight=False)
    rows_by_encoder: dict[str, list[dict[str, Any]]] = {}
    for row in study_result["rows"]:
        rows_by_encoder.setdefault(row["encoder"], []).append(row)
    for encoder, rows in rows_by_encoder.items():
        sizes = f"{rows[0]['dim']} dimensions: {rows[0]['database']:,} items, {rows[0]['queries']:,} queries"
        console.print(f"[bold]{escape(encoder)}[/], {sizes}; {_describe_encoding(rows[0])}")
        Console(width=max(STUDY_MIN_WIDTH, console.width)).print(_build_study_table(rows))
    threads = ", ".join(str(count) for count in sorted({row["threads"] for row in study_result["rows"]}))
    console.print(
        f"Times are wall-clock with {threads} threads. best: the fastest in batches that reaches recall {study_result['target']}; "
        "•: no other row has both higher recall and higher speed.",
        style="dim",
    )
    console.print(f"page: {escape(next(path for path in study_result['files'] if path.endswith('.html')))}", style="dim")
    if best := max((row for row in study_result["rows"] if row["best"]), key=_score_row, default=None):
        console.print(f"next: indexmill build {escape(study_result['name'])} {escape(_format_settings(best))}", style="dim")
        if len(rows_by_encoder) > 1:
            console.print(f"      after setting the config's `encoder` to {escape(best['encoder'])}", style="dim")
    else:
        console.print(f"next: no row reaches recall {study_result['target']}; add higher search parameters to study.indexes", style="dim")


def _build_study_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    is_judged = any(row.get("ndcg_at_10") is not None for row in rows)
    for number, heading in enumerate(STUDY_COLUMNS):
        heading = heading.replace("label", "judged") if is_judged else heading
        table.add_column(heading, justify="left" if number < 2 else "right", vertical="bottom", no_wrap=True)
    for row in rows:
        index = row["index"] if row["factory"] in (row["index"], "NumPy") else f"{row['index']}: {row['factory']}"
        mark = " best" if row["best"] else " •" if row["is_pareto_optimal"] else ""
        by_label = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("precision_at_10", "recall_at_10", "map"))
        table.add_row(
            escape(index) + mark,
            row["params"],
            f"{row['ann_recall_at_10']:.4f}",
            f"{row['batch_queries_per_second']:,.0f}",
            f"{row['single_query_p50_ms']:.3f}",
            *by_label,
            f"{row['build_seconds']:.2f}",
            f"{row['bytes_per_vector']:,.0f}",
            style="bold green" if row["best"] else "",
        )
    return table


def _describe_encoding(row: dict[str, Any]) -> str:
    rate = row["encode_items_per_second"]
    if row["encode_seconds"] is not None:
        return f"{row['encoded']:,} encoded in {row['encode_seconds']:.1f} s, {rate:,.0f}/s"
    return "all embeddings cached" + (f"; encoded earlier at {rate:,.0f}/s" if rate else "")


def _score_row(row: dict[str, Any]) -> tuple[float, float]:
    """Rank the best rows of several encoders: by relevance where there are labels, then by speed."""
    return (row["map"] or 0.0, row["batch_queries_per_second"])


def _format_settings(row: dict[str, Any]) -> str:
    """Return the options that make a build use this row's index."""
    factory = "Flat" if row["index"] == "NumPy" else row["index"]
    index_settings = {"factory": factory}
    if row["recall_target"]:
        index_settings |= {"recall_target": row["recall_target"]}
    elif factory != "auto":
        index_settings |= {name: row[name] for name in ("nprobe", "ef_search", "rerank_candidates") if row[name] is not None}
    if row["rerank"] != "none" and factory != "auto":
        index_settings |= {"rerank": row["rerank"]}
    return " ".join(f"--set index.{name}={value}" for name, value in index_settings.items())
