"""The report in a screenful, for terminals and chats: verdict, figures with changes, what came in, the gate, and where the rest is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from indexmill.tasks.reports import metric_tables
from indexmill.tasks.reports.formats import MISSING, clip, count, figure, milliseconds, several, share, signed_count, size
from indexmill.tasks.reports.metric_tables import latency
from indexmill.tasks.reports.model import ReportModel

MARKDOWN_SPECIAL = re.compile(r"[\\`*\[\]<|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|^[#>+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")
AUTOLINKS = re.compile(r"@|:(?=//)|\bwww(?=\.)", re.IGNORECASE)  # what GitHub makes links and mentions of


def render_markdown(contents: ReportModel) -> str:
    """GitHub's Markdown (tables among it), within a few kilobytes. Whatever comes from data is escaped, so it is text and nothing else."""
    parts = (_render_verdict, _render_metrics, _render_speed, _render_incoming, _render_gate, _render_footer)
    return "\n\n".join(text for part in parts if (text := "\n".join(part(contents)))) + "\n"


def escape_markdown(text: object, most: int = 160) -> str:
    """Text that Markdown shows as it stands: on one line, cut at `most` characters, without links, mentions, emphasis, code or HTML."""
    return AUTOLINKS.sub(lambda found: found[0] + "\u200b", MARKDOWN_SPECIAL.sub(r"\\\g<0>", clip(text, most)))


def format_code(text: object, most: int = 80) -> str:
    """A name as code, which needs no escapes but of what would end it or the cell that it stands in."""
    return "`" + (clip(text, most).replace("`", "'").replace("|", "/") or " ") + "`"


def _render_verdict(contents: ReportModel) -> Iterator[str]:
    build_metrics = contents.build_metrics
    force_reason = build_metrics.force_reason is not None and build_metrics.verdict == "published"
    word = "✗ refused" if build_metrics.verdict == "refused" else "! published by force" if force_reason else "✓ published"
    yield f"# {escape_markdown(build_metrics.name)}: {word}"
    yield ""
    yield f"Snapshot {format_code(build_metrics.snapshot_id)}, made {escape_markdown(build_metrics.created_at)}. " + (
        f"Against {format_code(build_metrics.diff.snapshot_id)}: {metric_tables.summed(contents)}."
        if build_metrics.diff
        else "The first snapshot."
    )
    if contents.description:
        yield f"\n{escape_markdown(contents.description, 300)}"
    if force_reason:
        yield f"\nReason given: {escape_markdown(build_metrics.force_reason, 400)}"
    if build_metrics.failed_rules:
        yield "\nThe gate objected:\n"
        yield from (f"- {escape_markdown(one, 300)}" for one in build_metrics.failed_rules[:20])


def _render_metrics(contents: ReportModel) -> Iterator[str]:
    yield "## Figures\n"
    rows = [
        (one.meaning.label, figure(one.value), f"{figure(one.interval[0])} to {figure(one.interval[1])}" if one.interval else MISSING,
         str(one.change) if one.change else MISSING, one.over)
        for one in metric_tables.headlines(contents)
    ]  # fmt: skip
    for name, pair in list(contents.build_metrics.scored_pairs.items())[:10]:
        rows.append((f"Spearman, {escape_markdown(name, 40)}", figure(pair.spearman), MISSING, MISSING, f"{count(pair.pairs)} pairs"))
    if rows:
        yield from _render_table(("measure", "value", "95 %", "change", "over"), rows)
    else:
        yield "Nothing was measured."


def _render_speed(contents: ReportModel) -> Iterator[str]:
    found, parts = latency(contents.build_metrics), []
    if found and 50 in found.encode:
        parts.append(f"encoding a query takes {milliseconds(found.encode[50])}")
    if found and 50 in found.search:
        parts.append(f"searching for it {milliseconds(found.search[50])}")
    if found and found.share is not None:
        parts.append(f"so encoding is {share(found.share)} of its time (medians)")
    if "bytes_per_vector" in contents.build_metrics.timings:
        parts.append(f"a vector takes {size(contents.build_metrics.timings['bytes_per_vector'])}")
    if parts:
        text = "; ".join(parts)
        yield text[0].upper() + text[1:] + "."


def _render_incoming(contents: ReportModel) -> Iterator[str]:
    manifest, diff = contents.manifest, contents.build_metrics.diff
    yield "## What came in\n"
    yield f"- {count(manifest.items)} items served: {count(manifest.database)} database, {count(manifest.query)} query side"
    if diff:
        yield "- since the live snapshot: " + ", ".join(f"{count(number)} {escape_markdown(kind)}" for kind, number in diff.items.items())
    yield (
        f"- {count(manifest.rejected)} rejected"
        + (f" ({signed_count(diff.rejected)})" if diff else "")
        + (": " + ", ".join(f"{format_code(one.reason)} {count(one.count)}" for one in contents.rejects[:20]) if contents.rejects else "")
    )
    split = {name: manifest.split.get(name, 0) for name in ("labels", "leaks", "conflicts")}
    yield (
        f"- {several(split['labels'], 'label', 'labels')}; {several(split['leaks'], 'leaking query', 'leaking queries')}; "
        f"{several(split['conflicts'], 'group', 'groups')} of equal items with more than one label"
    )


def _render_gate(contents: ReportModel) -> Iterator[str]:
    if contents.build_metrics.gate:
        yield "## Gate\n"
        rows = [
            ("✓ held" if rule.passed else "✗ broken", format_code(rule.rule), figure(rule.measured), figure(rule.limit))
            for rule in contents.build_metrics.gate
        ]
        yield from _render_table(("", "rule", "measured", "limit"), rows[:40])


def _render_footer(_: ReportModel) -> Iterator[str]:
    yield "Pictures, labels, curves and the space: `report.html`. All figures: `metrics.json`. Both lie beside this file."


def _render_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """With columns as wide as their widest cell, so that it can be read before it is rendered too."""
    cells = [list(head), *map(list, rows)]
    widths = [max(3, *(len(row[at]) for row in cells)) for at in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    return iter([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
