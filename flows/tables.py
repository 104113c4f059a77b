"""Answers for people, on standard output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from indexmill.configs.models import PipelineConfig

HEADLINES = ("map", "precision_at_1", "precision_at_10", "recall_at_10", "ann_recall_at_10")


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
        f"{summary['encoded']:,} encoded, {summary['reused']:,} reused, in {_precision(summary)}"
        + (f"; of {summary['truncated']:,} the encoder saw only the beginning" if summary["truncated"] else "")
    )
    index = summary["index"]
    params = ", ".join(f"{name} {value}" for name, value in index["params"].items())
    again = "" if index["rerank"] == "none" else f", re-ranked ({index['rerank']})"
    console.print(f"  index    {index['factory']}{again}; {params or 'searched by default'}; training {index['training']}")
    if index["met"] is False or index["latency_met"] is False:
        console.print(f"  [yellow]missed[/]   {escape(index['tuning'])}")
    console.print("  figures  " + ", ".join(f"{name} {summary['metrics'][name]:.3f}" for name in HEADLINES if name in summary["metrics"]))
    console.print("  stages   " + (", ".join(done) if done else f"nothing changed: all {len(stages)} stages were remembered"))
    console.print(f"  report   {escape(summary['report'])}")


def _precision(summary: dict[str, Any]) -> str:
    check = summary["precision_check"]
    if check is None or check["passes"]:
        return str(summary["precision"])
    figures = f"mean cosine {check['mean_cosine']:.4f}, overlap@10 {check['overlap_at_10']:.3f}"
    return f"{summary['precision']}, since {check['tried']} fell short on a sample: {figures}"


def print_plan(plan: dict[str, Any]) -> None:
    """A plan in a few lines, and whether it fits."""
    console = Console(soft_wrap=True, highlight=False)
    state = "does not fit" if plan["obstacles"] else "fits"
    console.print(f"[bold]{plan['name']}[/]: the next build {state}")
    console.print(
        f"  items     {plan['items']:,}: {plan['new']:,} new, {plan['changed']:,} changed, {plan['removed']:,} removed, "
        f"{plan['unchanged']:,} unchanged; {plan['rejected']:,} rejected"
    )
    for side in plan["encoding"]:
        console.print(f"  {side['modality'] + 's':<9} {side['to_encode']:,} to encode, {side['reused']:,} reused: {_time(side)}")
    console.print(f"  training  {plan['training']}")
    console.print(f"  disk      at most {_size(plan['bytes'])} more, {_size(plan['free_bytes'])} free")
    console.print(f"  memory    about {_size(plan['peak_bytes'])} at the peak, {_size(plan['available_bytes'])} available")
    for obstacle in plan["obstacles"]:
        console.print(f"  [red]obstacle[/]  {obstacle}")
    if not plan["obstacles"]:
        console.print(f"next: indexmill build {plan['name']}", style="dim")


def _time(side: dict[str, Any]) -> str:
    if not side["to_encode"]:
        return "nothing to do"
    if side["seconds"] is None:
        return "how long is not known before the first time"
    return f"about {side['seconds']:,.0f} s at {side['rate']:,.0f}/s, {side['precision']}"


def _size(count: int) -> str:
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


def print_merged(answer: dict[str, Any]) -> None:
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
