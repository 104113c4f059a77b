"""Print results for people on standard output: builds, plans, searches, merges, pipelines, the catalog and studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from indexmill.configs.models import PipelineConfig

HEADLINE_METRICS = ("map", "precision_at_1", "precision_at_10", "recall_at_10", "ann_recall_at_10")


def print_summary(summary: dict[str, Any]) -> None:
    """A build in a few lines: what is live, how good it is, what was done, where the report is."""
    console = Console(soft_wrap=True)
    stages: dict[str, dict[str, Any]] = summary["stages"]
    done = [f"{name} {run['seconds']:.1f} s" for name, run in stages.items() if not run["cached"]]
    fresh = "published" if done else "is up to date"
    state = fresh if summary["published"] else "built, but another snapshot is live"
    console.print(f"[bold]{summary['name']}[/] {state}: snapshot [bold]{summary['snapshot_id']}[/]")
    console.print(
        f"  items    {summary['items']:,}: {summary['database']:,} database, {summary['query']:,} query, {summary['rejected']:,} rejected; "
        f"{summary['encoded']:,} encoded, {summary['reused']:,} reused, in {_describe_precision(summary)}"
        + (f"; of {summary['truncated']:,} the encoder saw only the beginning" if summary["truncated"] else "")
    )
    index = summary["index"]
    params = ", ".join(f"{name} {value}" for name, value in index["params"].items())
    again = "" if index["rerank"] == "none" else f", re-ranked ({index['rerank']})"
    console.print(f"  index    {index['factory']}{again}; {params or 'searched by default'}; training {index['training']}")
    if index["met"] is False or index["latency_met"] is False:
        console.print(f"  [yellow]missed[/]   {escape(index['tuning'])}")
    console.print(
        "  figures  " + ", ".join(f"{name} {summary['metrics'][name]:.3f}" for name in HEADLINE_METRICS if name in summary["metrics"])
    )
    console.print("  stages   " + (", ".join(done) if done else f"nothing changed: all {len(stages)} stages were remembered"))
    console.print(f"  report   {escape(summary['report'])}")


def _describe_precision(summary: dict[str, Any]) -> str:
    check = summary["precision_check"]
    if check is None or check["passes"]:
        return str(summary["precision"])
    values = f"mean cosine {check['mean_cosine']:.4f}, overlap@10 {check['overlap_at_10']:.3f}"
    return f"{summary['precision']}, since {check['tried']} fell short on a sample: {values}"


def print_plan(plan: dict[str, Any]) -> None:
    """A plan in a few lines, and whether it fits."""
    console = Console(soft_wrap=True, highlight=False)
    state = "does not fit" if plan["obstacles"] else "fits"
    console.print(f"[bold]{plan['name']}[/]: the next build {state}")
    console.print(
        f"  items     {plan['items']:,}: {plan['new']:,} new, {plan['changed']:,} changed, {plan['removed']:,} removed, "
        f"{plan['unchanged']:,} unchanged; {plan['rejected']:,} rejected"
    )
    for encode_plan in plan["encoding"]:
        console.print(
            f"  {encode_plan['modality'] + 's':<9} {encode_plan['to_encode']:,} to encode, {encode_plan['reused']:,} reused: {_describe_encode_time(encode_plan)}"
        )
    console.print(f"  training  {plan['training']}")
    console.print(f"  disk      at most {_format_bytes(plan['bytes'])} more, {_format_bytes(plan['free_bytes'])} free")
    console.print(f"  memory    about {_format_bytes(plan['peak_bytes'])} at the peak, {_format_bytes(plan['available_bytes'])} available")
    for obstacle in plan["obstacles"]:
        console.print(f"  [red]obstacle[/]  {obstacle}")
    if not plan["obstacles"]:
        console.print(f"next: indexmill build {plan['name']}", style="dim")


def _describe_encode_time(encode_plan: dict[str, Any]) -> str:
    if not encode_plan["to_encode"]:
        return "nothing to do"
    if encode_plan["seconds"] is None:
        return "how long is not known before the first time"
    return f"about {encode_plan['seconds']:,.0f} s at {encode_plan['rate']:,.0f}/s, {encode_plan['precision']}"


def _format_bytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def print_results(answer: dict[str, Any]) -> None:
    """The ranking as a table, and the time it took."""
    texts = any(item["text"] for item in answer["results"])
    table = Table(box=None, header_style="bold", expand=texts)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("distance", justify="right")
    table.add_column("key", overflow="fold", min_width=20, max_width=44)
    table.add_column("label", no_wrap=True, max_width=20)
    if texts:
        table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for item in answer["results"]:
        # A text that begins with its key does not have to say it again.
        text = (item["text"] or "").removeprefix(item["key"]).lstrip(": ")
        cells = (
            f"{item['rank']}",
            f"{item['score']:.4f}",
            f"{abs(item['distance']) if abs(item['distance']) < 5e-5 else item['distance']:.4f}",
            escape(item["key"]),
            escape(item["label"] or ""),
        )
        table.add_row(*cells, *([escape(text)] if texts else []))
    console = Console()
    console.print(table)
    console.print(
        f"snapshot {answer['snapshot_id']}: opened in {answer['open_ms']:.0f} ms, model loaded in {answer['load_ms']:.0f} ms, "
        f"encoded in {answer['encode_ms']:.0f} ms, searched in {answer['search_ms']:.1f} ms",
        style="dim", soft_wrap=True,
    )  # fmt: skip


def print_merge_result(answer: dict[str, Any]) -> None:
    """The files, and how to open them."""
    console = Console(soft_wrap=True)
    console.print(f"snapshot {answer['snapshot_id']}: {answer['vectors']:,} vectors, {answer['bytes']:,} bytes")
    for path in (*answer["files"], answer["infos"]):
        console.print(f"  {escape(path)}")
    console.print(f"next: faiss.read_index({answer['files'][0]!r})", style="dim", markup=False)


def print_pipelines(configs: list[PipelineConfig]) -> None:
    """One line a pipeline."""
    table = Table(box=None, header_style="bold")
    for heading in ("pipeline", "source", "encoder", "index", "what it is"):
        table.add_column(heading)
    for config in configs:
        table.add_row(config.name, config.dataset.source, config.encoder.kind, config.index.factory, escape(config.description))
    Console().print(table)
    Console().print("next: indexmill build NAME", style="dim")


def print_builds(rows: list[dict[str, Any]], path: Path) -> None:
    """One line a snapshot, the live one marked."""
    table = Table(box=None, header_style="bold")
    for heading in ("index", "snapshot", "live", "created", "items", "rejected", "factory"):
        table.add_column(heading, justify="right" if heading in ("items", "rejected") else "left")
    for row in rows:
        counts = (f"{row['items']:,}", f"{row['rejected']:,}")
        table.add_row(row["index_name"], row["snapshot_id"], "live" if row["live"] else "", row["created_at"], *counts, row["factory"])
    Console().print(table)
    Console().print(f"{path}: tables builds, evaluations, shards; views items, embeddings_*", style="dim", soft_wrap=True)


STUDY_COLUMNS = (
    "index", "params", "recall@10\nexact", "queries/s\nbatch", "p50 ms\nsingle", "P@10\nlabel", "R@10\nlabel", "mAP\nlabel", "build\ns",
    "bytes a\nvector",
)  # fmt: skip


STUDY_MIN_WIDTH = 130  # of the table, at least: a row that wraps in a narrow window is read more easily than one without its columns


def print_study(study_result: dict[str, Any]) -> None:
    """One table an encoder, its best row marked, then where everything lies and what to build."""
    console = Console(soft_wrap=True, highlight=False)
    by_encoder: dict[str, list[dict[str, Any]]] = {}
    for row in study_result["rows"]:
        by_encoder.setdefault(row["encoder"], []).append(row)
    for encoder, rows in by_encoder.items():
        console.print(f"[bold]{escape(encoder)}[/], {rows[0]['dim']} numbers a vector: {rows[0]['database']:,} items, "
                      f"{rows[0]['queries']:,} queries; {_describe_encoding(rows[0])}")  # fmt: skip
        Console(width=max(STUDY_MIN_WIDTH, console.width)).print(_build_study_table(rows))
    threads = ", ".join(str(count) for count in sorted({row["threads"] for row in study_result["rows"]}))
    console.print(
        f"Times are wall-clock, {threads} threads. best: the quickest in batches at recall {study_result['target']}; "
        "a dot marks rows that no other beats in recall and speed.",
        style="dim",
    )
    console.print(f"page: {escape(next(path for path in study_result['files'] if path.endswith('.html')))}", style="dim")
    if best := max((row for row in study_result["rows"] if row["best"]), key=_score_row, default=None):
        console.print(f"next: indexmill build {escape(study_result['name'])} {escape(_format_settings(best))}", style="dim")
        if len(by_encoder) > 1:
            console.print(f"      with the encoder {escape(best['encoder'])} as the config's `encoder`", style="dim")
    else:
        console.print(f"next: no setting reaches recall {study_result['target']}; try wider ones in study.indexes", style="dim")


def _build_study_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(STUDY_COLUMNS):
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


def _describe_encoding(row: dict[str, Any]) -> str:
    if row["encode_seconds"] is not None:
        return f"{row['encoded']:,} encoded in {row['encode_seconds']:.1f} s, {row['encode_items_per_second']:,.0f} a second"
    rate = row["encode_items_per_second"]
    return "nothing to encode" + (f"; {rate:,.0f} a second when it was" if rate else "")


def _score_row(row: dict[str, Any]) -> tuple[float, float]:
    """The best of several encoders: by relevance where there are labels, then by speed."""
    return (row["map"] or 0.0, row["batch_queries_per_second"])


def _format_settings(row: dict[str, Any]) -> str:
    """What a build needs to have this row's index."""
    factory = "Flat" if row["index"] == "NumPy" else row["index"]
    index_settings = {"factory": factory}
    if row["recall_target"]:
        index_settings |= {"recall_target": row["recall_target"]}
    elif factory != "auto":
        index_settings |= {name: row[name] for name in ("nprobe", "ef_search", "rerank_candidates") if row[name] is not None}
    if row["rerank"] != "none" and factory != "auto":
        index_settings |= {"rerank": row["rerank"]}
    return " ".join(f"--set index.{name}={value}" for name, value in index_settings.items())
