"""Print results for people (builds, plans, searches, merges, pipelines, the catalog), and JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from indexmill.tasks.reports.formats import pluralize

T = TypeVar("T")
HEADLINE_METRICS = ("map", "precision_at_1", "precision_at_10", "recall_at_10", "ann_recall_at_10")


def print_result(result: T, as_json: bool, render: Callable[[T], None]) -> None:
    """Print a command's result: as one JSON document on standard output, or as `render` prints it for people."""
    if as_json:
        print(json.dumps(result))
    else:
        render(result)


def print_line(text: str) -> None:
    """Print a plain line on standard output."""
    print(text)


def print_warning(text: str) -> None:
    """Print a plain message on standard error."""
    print(text, file=sys.stderr)


def make_table(headings: tuple[str, ...], numeric: tuple[str, ...] = ()) -> Table:
    """Make a table without borders; numeric columns are aligned to the right."""
    table = Table(box=None, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numeric else "left", overflow="fold")
    return table


def print_summary(summary: dict[str, Any]) -> None:
    """Print a build in a few lines: what is live, how good it is, what was done, where the report is."""
    console = Console(soft_wrap=True)
    stages: dict[str, dict[str, Any]] = summary["stages"]
    stages_run = [f"{name} {run['seconds']:.1f} s" for name, run in stages.items() if not run["cached"]]
    live_state = "is up to date" if stages["publish"]["cached"] else "published"
    state = live_state if summary["published"] else "is not published: a rollback has withdrawn this content, and another snapshot is live"
    console.print(f"[bold]{summary['name']}[/] {state}: snapshot [bold]{summary['snapshot_id']}[/]")
    console.print(
        f"  items    {summary['items']:,}: {summary['database']:,} database, {summary['query']:,} query, {summary['rejected']:,} rejected; "
        f"{summary['encoded']:,} encoded, {summary['reused']:,} reused, in {_describe_precision(summary)}"
        + (f"; {summary['truncated']:,} texts too long for the encoder were cut" if summary["truncated"] else "")
        + (f"; {summary['chunks']:,} chunks" if summary["chunks"] else "")
    )
    _print_skipped(console, summary["skipped"])
    index = summary["index"]
    params = ", ".join(f"{name} {value}" for name, value in index["params"].items())
    reranking = "" if index["rerank"] == "none" else f", re-ranked ({index['rerank']})"
    console.print(f"  index    {index['factory']}{reranking}; {params or 'default search parameters'}")
    console.print(f"  training {escape(index['training'])}")
    if index["met"] is False or index["latency_met"] is False:
        console.print(f"  [yellow]missed[/]   {escape(index['tuning'])}")
    metrics = (f"{name} {summary['metrics'][name]:.3f}" for name in HEADLINE_METRICS if name in summary["metrics"])
    console.print(f"  metrics  {', '.join(metrics) or 'none: there are no queries'}")
    console.print("  stages   " + (", ".join(stages_run) or f"nothing changed: all {len(stages)} stages came from the cache"))
    for result in summary["exports"]:
        console.print(f"  export   {describe_export(result)}")
    console.print(f"  report   {escape(summary['report'])}")
    if not summary["published"]:
        console.print(f"next: indexmill rollback {summary['name']} {summary['snapshot_id']}, or build with --force REASON", style="dim")


def _describe_precision(summary: dict[str, Any]) -> str:
    check = summary["precision_check"]
    if check is None or check["passes"]:
        return str(summary["precision"])
    values = f"mean cosine {check['mean_cosine']:.4f}, overlap@10 {check['overlap_at_10']:.3f}"
    return f"{summary['precision']}, because {check['tried']} was too inaccurate on a sample ({values})"


def print_demo(summaries: list[dict[str, Any]], digits: Path, root_option: str) -> None:
    """Print both builds of the demo, and commands to try next.

    Args:
        summaries: The summaries of the builds.
        digits: The folder with the images of demo-images.
        root_option: ` --root DIRECTORY`; empty for the default root.
    """
    console = Console(soft_wrap=True)
    console.print()
    for summary in summaries:
        print_summary(summary)
        console.print(f"  folder   {summary['path']}")
    commands = (
        f'indexmill search demo-text "parse a date out of a string"{root_option}',
        f"indexmill search demo-images --image {digits}/3/0003.png{root_option}",
        f"indexmill serve demo-text demo-images{root_option}",
        f"indexmill build demo-text{root_option}    (nothing has changed, so this takes seconds)",
    )
    console.print("\n[bold]Try next[/]")
    for command in commands:
        console.print(f"  {escape(command)}", highlight=False)


def _print_skipped(console: Console, skipped: dict[str, int]) -> None:
    if skipped:
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in sorted(skipped.items(), key=lambda pair: (-pair[1], pair[0]))[:12])
        files = pluralize(sum(skipped.values()), "file that is no image", "files that are no images")
        console.print(f"  [yellow]skipped[/]  {files}: {escape(kinds)}")


def print_plan(plan: dict[str, Any], build_command: str) -> None:
    """Print a plan in a few lines, whether the build fits, and then the command that starts it."""
    console = Console(soft_wrap=True, highlight=False)
    state = "does not fit on this machine" if plan["obstacles"] else "fits on this machine"
    console.print(f"[bold]{plan['name']}[/]: the next build {state}")
    console.print(
        f"  items     {plan['items']:,}: {plan['new']:,} new, {plan['changed']:,} changed, {plan['removed']:,} removed, "
        f"{plan['unchanged']:,} unchanged; {plan['rejected']:,} rejected"
    )
    _print_skipped(console, plan["skipped"])
    for encode_plan in plan["encoding"]:
        counts = f"{encode_plan['to_encode']:,} to encode, {encode_plan['reused']:,} reused"
        console.print(f"  {encode_plan['modality'] + 's':<9} {counts}: {_describe_encode_time(encode_plan)}")
    if long_texts := _describe_long_texts(plan):
        console.print(f"  long      {long_texts}")
    console.print(f"  training  {plan['training']}")
    console.print(f"  disk      at most {_format_bytes(plan['bytes'])} more; {_format_bytes(plan['free_bytes'])} free")
    if plan["downloaded_bytes"]:
        console.print(f"  copies    {_format_bytes(plan['downloaded_bytes'])} of downloaded images, which are on this disk already")
    console.print(f"  memory    about {_format_bytes(plan['peak_bytes'])} at the peak; {_format_bytes(plan['available_bytes'])} available")
    for obstacle in plan["obstacles"]:
        console.print(f"  [red]obstacle[/]  {obstacle}")
    if not plan["obstacles"]:
        console.print(f"next: {escape(build_command)}", style="dim")


def _describe_encode_time(encode_plan: dict[str, Any]) -> str:
    if not encode_plan["to_encode"]:
        return "nothing to do"
    if encode_plan["seconds"] is None:
        return "no time estimate until this encoder has run once"
    return f"about {encode_plan['seconds']:,.0f} s at {encode_plan['rate']:,.0f}/s, {encode_plan['precision']}"


def _describe_long_texts(plan: dict[str, Any]) -> str:
    """Describe chunks, or how many texts the encoder would cut and what chunks would cost; empty if it would cut none."""
    if plan["chunks"] is not None:
        return f"{plan['items']:,} texts in {plan['chunks']:,} chunks"
    estimate = plan["chunk_estimate"]
    if not estimate or not estimate["cut"]:
        return ""
    about = "" if estimate["sampled"] == estimate["texts"] else "about "
    return (
        f"{about}{estimate['cut']:,} of {estimate['texts']:,} texts are cut at {estimate['tokens']} tokens; with dataset.chunk={{tokens: "
        f"{estimate['tokens']}, overlap: {estimate['overlap']}}} the index would hold {about}{estimate['chunks']:,} vectors"
    )


def _format_bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def print_search_results(answer: dict[str, Any]) -> None:
    """Print the results of a search as a table, and the time it took."""
    has_texts = any(item["text"] for item in answer["results"])
    table = Table(box=None, header_style="bold", expand=has_texts)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("distance", justify="right")
    table.add_column("key", overflow="fold", min_width=20, max_width=44)
    table.add_column("label", no_wrap=True, max_width=20)
    if has_texts:
        table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    for item in answer["results"]:
        # Some texts begin with their key, which the table shows anyway.
        text = (item["text"] or "").removeprefix(item["key"]).lstrip(": ")
        distance = abs(item["distance"]) if abs(item["distance"]) < 5e-5 else item["distance"]  # no -0.0000
        cells = (f"{item['rank']}", f"{item['score']:.4f}", f"{distance:.4f}", escape(item["key"]), escape(item["label"] or ""))
        table.add_row(*cells, *([escape(text)] if has_texts else []))
    console = Console()
    if not answer["results"] and answer["label"] is not None:
        console.print(f"no item of this snapshot has the label {answer['label']!r}", markup=False, soft_wrap=True)
    else:
        console.print(table)
    console.print(
        f"snapshot {answer['snapshot_id']}: opened in {answer['open_ms']:.0f} ms, model loaded in {answer['load_ms']:.0f} ms, "
        f"encoded in {answer['encode_ms']:.0f} ms, searched in {answer['search_ms']:.1f} ms",
        style="dim",
        soft_wrap=True,
    )


def print_exports(answer: dict[str, Any]) -> None:
    """Print one line per export."""
    console = Console(soft_wrap=True)
    for result in answer["exports"]:
        console.print(describe_export(result))


def describe_export(result: dict[str, Any]) -> str:
    """Describe how an export went, as markup in one line."""
    target = f"{result['format']} to {escape(result['to'])}"
    if result["state"] == "failed":
        return f"{target}: [red]failed[/], {escape(result['error'])}"
    if result["state"] == "unchanged":
        return f"{target}: has snapshot {result['snapshot_id']} already"
    counts = f"{result['written']:,} of {result['rows']:,} rows written, {result['removed']:,} removed"
    return f"{target}: snapshot {result['snapshot_id']}, {counts}"


def print_merge_result(result: dict[str, Any]) -> None:
    """Print the files that a merge wrote, and how to open them."""
    console = Console(soft_wrap=True)
    console.print(f"snapshot {result['snapshot_id']}: {result['vectors']:,} vectors, {result['bytes']:,} bytes")
    for path in (*result["files"], result["infos"]):
        console.print(f"  {escape(path)}")
    console.print(f"next: faiss.read_index({result['files'][0]!r})", style="dim", markup=False)


def print_pipelines(configs: list[dict[str, Any]]) -> None:
    """Print one line per pipeline."""
    table = make_table(("pipeline", "source", "encoder", "index", "description"))
    for config in configs:
        dataset, encoder, index = config["dataset"], config["encoder"], config["index"]
        table.add_row(config["name"], dataset["source"], encoder["kind"], index["factory"], escape(config["description"]))
    console = Console()
    console.print(table)
    console.print("next: indexmill build NAME", style="dim")


def print_config(values: dict[str, Any]) -> None:
    """Print a config as YAML."""
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())


def print_builds(rows: list[dict[str, Any]], path: Path) -> None:
    """Print one line per snapshot of all indexes, and where the catalog is."""
    table = make_table(("index", "snapshot", "live", "built", "items", "rejected", "factory"), numeric=("items", "rejected"))
    for row in rows:
        counts = (f"{row['items']:,}", f"{row['rejected']:,}")
        table.add_row(row["index_name"], row["snapshot_id"], "live" if row["live"] else "", row["created_at"], *counts, row["factory"])
    console = Console()
    console.print(table)
    console.print(f"{path}: tables builds, evaluations, shards; views items, embeddings_*", style="dim", soft_wrap=True)
