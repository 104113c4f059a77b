"""Render a one-screen report as Markdown, for terminals and chats: verdict, metrics with changes, items, the gate."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from indexmill.storage.metrics_file import list_skipped
from indexmill.tasks.reports import metric_tables
from indexmill.tasks.reports.encoding_notes import list_encoding_notes
from indexmill.tasks.reports.formats import (
    MISSING,
    clip,
    format_bytes,
    format_count,
    format_milliseconds,
    format_number,
    format_percent,
    format_signed_count,
    pluralize,
)
from indexmill.tasks.reports.model import ReportModel

MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]<|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|^[#>+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")
AUTOLINKS = re.compile(r"@|:(?=//)|\bwww(?=\.)", re.IGNORECASE)  # what GitHub turns into mentions and links


def render_markdown(report: ReportModel) -> str:
    """Render GitHub-flavored Markdown, a few kilobytes.

    Every string from data is escaped, so that it is shown as plain text.
    """
    sections = (_render_verdict, _render_metrics, _render_query_sets, _render_speed, _render_items, _render_gate, _render_footer)
    return "\n\n".join(text for section in sections if (text := "\n".join(section(report)))) + "\n"


def escape_markdown(text: object, max_length: int = 160) -> str:
    """Escape a text so that Markdown shows it as it is, on one line: no links, mentions, emphasis, code or HTML."""
    return AUTOLINKS.sub(lambda match: match[0] + "\u200b", MARKDOWN_SPECIAL.sub(r"\\\g<0>", clip(text, max_length)))


def format_code(text: object, max_length: int = 80) -> str:
    """Format a name as inline code that is safe inside a table."""
    return "`" + (clip(text, max_length).replace("`", "'").replace("|", "/") or " ") + "`"


def _render_verdict(report: ReportModel) -> Iterator[str]:
    build_metrics = report.build_metrics
    is_forced = build_metrics.force_reason is not None and build_metrics.verdict == "published"
    verdict = "✗ refused" if build_metrics.verdict == "refused" else "! published by force" if is_forced else "✓ published"
    yield f"# {escape_markdown(build_metrics.name)}: {verdict}"
    yield ""
    yield f"Snapshot {format_code(build_metrics.snapshot_id)}, created {escape_markdown(build_metrics.created_at)}. " + (
        f"Compared with {format_code(build_metrics.diff.snapshot_id)}: {metric_tables.summarize_changes(report)}."
        if build_metrics.diff
        else "This is the first snapshot."
    )
    if report.description:
        yield f"\n{escape_markdown(report.description, 300)}"
    if is_forced:
        yield f"\nReason for publishing: {escape_markdown(build_metrics.force_reason, 400)}"
    if build_metrics.failed_rules:
        yield "\nFailed rules:\n"
        yield from (f"- {escape_markdown(message, 300)}" for message in build_metrics.failed_rules[:20])


def _render_metrics(report: ReportModel) -> Iterator[str]:
    yield "## Metrics\n"
    rows = [
        (
            row.definition.label,
            format_number(row.value),
            f"{format_number(row.interval[0])} to {format_number(row.interval[1])}" if row.interval else MISSING,
            str(row.change) if row.change else MISSING,
            row.population,
        )
        for row in metric_tables.list_headline_metrics(report)
    ]
    for name, pair in list(report.build_metrics.scored_pairs.items())[:10]:
        label = f"Spearman, {escape_markdown(name, 40)}"
        rows.append((label, format_number(pair.spearman), MISSING, MISSING, pluralize(pair.pairs, "pair", "pairs")))
    if rows:
        yield from _render_table(("metric", "value", "95% CI", "change", "mean over"), rows)
    else:
        yield "Nothing was measured."


def _render_query_sets(report: ReportModel) -> Iterator[str]:
    query_sets = metric_tables.list_query_sets(report)
    if not query_sets:
        return
    yield "## Query sets\n"
    for query_set in query_sets:
        counted = [pluralize(query_set.queries, "query", "queries"), f"{format_count(query_set.judged)} judged"]
        yield f"- {escape_markdown(query_set.name or 'main set')}: {', '.join(counted)}" + "".join(f"; {note}" for note in query_set.notes)
    rows = [
        (
            row.definition.label,
            format_number(row.value),
            f"{format_number(row.interval[0])} to {format_number(row.interval[1])}" if row.interval else MISSING,
            str(row.change) if row.change else MISSING,
        )
        for query_set in query_sets
        if query_set.name
        for row in query_set.metrics
    ]
    if rows:
        yield ""
        yield from _render_table(("metric", "value", "95% CI", "change"), rows)


def _render_speed(report: ReportModel) -> Iterator[str]:
    latency, timings = metric_tables.get_latency(report.build_metrics), report.build_metrics.timings
    parts = []
    if latency and 50 in latency.encode:
        parts.append(f"encoding {format_milliseconds(latency.encode[50])}")
    if latency and 50 in latency.search:
        parts.append(f"search {format_milliseconds(latency.search[50])}")
    if latency and latency.encode_fraction is not None:
        parts.append(f"encoding is {format_percent(latency.encode_fraction)} of the total")
    if parts:
        yield f"Median time of one query: {', '.join(parts)}."
    if "bytes_per_vector" in timings:
        yield f"Index size: {format_bytes(timings['bytes_per_vector'])} per vector."


def _render_items(report: ReportModel) -> Iterator[str]:
    manifest, diff = report.manifest, report.build_metrics.diff
    yield "## Items\n"
    yield f"- {format_count(manifest.items)} served: {format_count(manifest.database)} database, {format_count(manifest.query)} query"
    if diff:
        changes = ", ".join(f"{format_count(number)} {escape_markdown(kind)}" for kind, number in diff.items.items())
        yield f"- since the live snapshot: {changes}"
    reasons = ", ".join(f"{format_code(group.reason)} {format_count(group.count)}" for group in report.rejects[:20])
    difference = f" ({format_signed_count(diff.rejected)})" if diff else ""
    yield f"- {format_count(manifest.rejected)} rejected{difference}" + (f": {reasons}" if reasons else "")
    if skipped := list_skipped(report.build_metrics):
        kinds = ", ".join(f"{format_code(kind)} {format_count(number)}" for kind, number in skipped.items())
        yield f"- {format_count(sum(skipped.values()))} files skipped, because they are no images: {kinds}"
    split = {name: manifest.split.get(name, 0) for name in ("labels", "leaks", "conflicts")}
    yield (
        f"- {pluralize(split['labels'], 'label', 'labels')}; {pluralize(split['leaks'], 'leaking query', 'leaking queries')}; "
        f"{pluralize(split['conflicts'], 'content group', 'content groups')} with more than one label"
    )
    yield from (f"- {escape_markdown(note, 600)}" for note in list_encoding_notes(manifest))


def _render_gate(report: ReportModel) -> Iterator[str]:
    if report.build_metrics.gate:
        yield "## Gate\n"
        rows = [
            ("✓ passed" if rule.passed else "✗ failed", format_code(rule.rule), format_number(rule.measured), format_number(rule.limit))
            for rule in report.build_metrics.gate
        ]
        yield from _render_table(("", "rule", "measured", "limit"), rows[:40])


def _render_footer(_: ReportModel) -> Iterator[str]:
    yield "In the same folder: `report.html` (images, labels, curves, embedding space) and `metrics.json` (all metrics)."


def _render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Align the columns, so that the table can also be read before it is rendered."""
    cells = [list(header), *map(list, rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    return iter([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
