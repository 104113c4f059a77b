"""A study for people, on standard output."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

COLUMNS = (
    "index", "params", "recall@10\nexact", "queries/s\nbatch", "p50 ms\nsingle", "P@10\nlabel", "R@10\nlabel", "mAP\nlabel", "build\ns",
    "bytes a\nvector",
)  # fmt: skip


WIDTH = 130  # of the table, at least: a row that wraps in a narrow window is read more easily than one without its columns


def print_study(found: dict[str, Any]) -> None:
    """One table an encoder, its best row marked, then where everything lies and what to build."""
    console = Console(soft_wrap=True, highlight=False)
    by_encoder: dict[str, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        by_encoder.setdefault(row["encoder"], []).append(row)
    for encoder, rows in by_encoder.items():
        console.print(f"[bold]{escape(encoder)}[/], {rows[0]['dim']} numbers a vector: {rows[0]['database']:,} items, "
                      f"{rows[0]['queries']:,} queries; {_extraction(rows[0])}")  # fmt: skip
        Console(width=max(WIDTH, console.width)).print(_table(rows))
    threads = ", ".join(str(count) for count in sorted({row["threads"] for row in found["rows"]}))
    console.print(
        f"Times are wall-clock, {threads} threads. best: the quickest in batches at recall {found['target']}; "
        "a dot marks rows that no other beats in recall and speed.",
        style="dim",
    )
    console.print(f"page: {escape(next(path for path in found['files'] if path.endswith('.html')))}", style="dim")
    if best := max((row for row in found["rows"] if row["best"]), key=_worth, default=None):
        console.print(f"next: indexmill build {escape(found['name'])} {escape(_settings(best))}", style="dim")
        if len(by_encoder) > 1:
            console.print(f"      with the encoder {escape(best['encoder'])} as the config's `encoder`", style="dim")
    else:
        console.print(f"next: no setting reaches recall {found['target']}; try wider ones in study.indexes", style="dim")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="left" if number < 2 else "right", vertical="bottom", no_wrap=True)
    for row in rows:
        index = row["index"] if row["factory"] in (row["index"], "NumPy") else f"{row['index']}: {row['factory']}"
        by_label = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("precision_at_10", "recall_at_10", "map"))
        table.add_row(
            escape(index) + (" best" if row["best"] else " •" if row["is_pareto_optimal"] else ""), row["params"], f"{row['ann_recall_at_10']:.4f}",
            f"{row['batch_queries_per_second']:,.0f}", f"{row['single_query_p50_ms']:.3f}", *by_label, f"{row['build_seconds']:.2f}",
            f"{row['bytes_per_vector']:,.0f}", style="bold green" if row["best"] else "",
        )  # fmt: skip
    return table


def _extraction(row: dict[str, Any]) -> str:
    if row["encode_seconds"] is not None:
        return f"{row['encoded']:,} encoded in {row['encode_seconds']:.1f} s, {row['encode_items_per_second']:,.0f} a second"
    rate = row["encode_items_per_second"]
    return "nothing to encode" + (f"; {rate:,.0f} a second when it was" if rate else "")


def _worth(row: dict[str, Any]) -> tuple[float, float]:
    """The best of several encoders: by relevance where there are labels, then by speed."""
    return (row["map"] or 0.0, row["batch_queries_per_second"])


def _settings(row: dict[str, Any]) -> str:
    """What a build needs to have this row's index."""
    factory = "Flat" if row["index"] == "NumPy" else row["index"]
    wanted = {"factory": factory}
    if row["recall_target"]:
        wanted |= {"recall_target": row["recall_target"]}
    elif factory != "auto":
        wanted |= {name: row[name] for name in ("nprobe", "ef_search", "rerank_candidates") if row[name] is not None}
    if row["rerank"] != "none" and factory != "auto":
        wanted |= {"rerank": row["rerank"]}
    return " ".join(f"--set index.{name}={value}" for name, value in wanted.items())
