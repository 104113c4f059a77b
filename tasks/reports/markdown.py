"""The report in a screenful, for terminals and chats: verdict, figures with changes, what came in, the gate, and where the rest is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from indexmill.tasks.reports import comparing
from indexmill.tasks.reports.contents import Contents
from indexmill.tasks.reports.formats import NOTHING, clip, count, figure, milliseconds, several, share, signed_count, size
from indexmill.tasks.reports.speed import latency

SPECIAL = re.compile(r"[\\`*\[\]<|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|^[#>+=-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]")
LINKED = re.compile(r"@|:(?=//)|\bwww(?=\.)", re.IGNORECASE)  # what GitHub makes links and mentions of


def render_markdown(contents: Contents) -> str:
    """GitHub's Markdown (tables among it), within a few kilobytes. Whatever comes from data is escaped, so it is text and nothing else."""
    parts = (_verdict, _figures, _speed, _incoming, _gate, _rest)
    return "\n\n".join(text for part in parts if (text := "\n".join(part(contents)))) + "\n"


def plain(text: object, most: int = 160) -> str:
    """Text that Markdown shows as it stands: on one line, cut at `most` characters, without links, mentions, emphasis, code or HTML."""
    return LINKED.sub(lambda found: found[0] + "\u200b", SPECIAL.sub(r"\\\g<0>", clip(text, most)))


def code(text: object, most: int = 80) -> str:
    """A name as code, which needs no escapes but of what would end it or the cell that it stands in."""
    return "`" + (clip(text, most).replace("`", "'").replace("|", "/") or " ") + "`"


def _verdict(contents: Contents) -> Iterator[str]:
    figures = contents.figures
    forced = figures.forced is not None and figures.verdict == "published"
    word = "✗ refused" if figures.verdict == "refused" else "! published by force" if forced else "✓ published"
    yield f"# {plain(figures.name)}: {word}"
    yield ""
    yield f"Snapshot {code(figures.snapshot_id)}, made {plain(figures.created_at)}. " + (
        f"Against {code(figures.since.snapshot_id)}: {comparing.summed(contents)}." if figures.since else "The first snapshot."
    )
    if contents.description:
        yield f"\n{plain(contents.description, 300)}"
    if forced:
        yield f"\nReason given: {plain(figures.forced, 400)}"
    if figures.objections:
        yield "\nThe gate objected:\n"
        yield from (f"- {plain(one, 300)}" for one in figures.objections[:20])


def _figures(contents: Contents) -> Iterator[str]:
    yield "## Figures\n"
    rows = [
        (one.meaning.label, figure(one.value), f"{figure(one.interval[0])} to {figure(one.interval[1])}" if one.interval else NOTHING,
         str(one.change) if one.change else NOTHING, one.over)
        for one in comparing.headlines(contents)
    ]  # fmt: skip
    for name, pair in list(contents.figures.graded.items())[:10]:
        rows.append((f"Spearman, {plain(name, 40)}", figure(pair.spearman), NOTHING, NOTHING, f"{count(pair.pairs)} pairs"))
    if rows:
        yield from _table(("measure", "value", "95 %", "change", "over"), rows)
    else:
        yield "Nothing was measured."


def _speed(contents: Contents) -> Iterator[str]:
    found, parts = latency(contents.figures), []
    if found and 50 in found.encode:
        parts.append(f"encoding a query takes {milliseconds(found.encode[50])}")
    if found and 50 in found.search:
        parts.append(f"searching for it {milliseconds(found.search[50])}")
    if found and found.share is not None:
        parts.append(f"so encoding is {share(found.share)} of its time (medians)")
    if "bytes_a_vector" in contents.figures.timings:
        parts.append(f"a vector takes {size(contents.figures.timings['bytes_a_vector'])}")
    if parts:
        text = "; ".join(parts)
        yield text[0].upper() + text[1:] + "."


def _incoming(contents: Contents) -> Iterator[str]:
    manifest, since = contents.manifest, contents.figures.since
    yield "## What came in\n"
    yield f"- {count(manifest.items)} items served: {count(manifest.database)} database, {count(manifest.query)} query side"
    if since:
        yield "- since the live snapshot: " + ", ".join(f"{count(number)} {plain(kind)}" for kind, number in since.items.items())
    yield (
        f"- {count(manifest.rejected)} rejected"
        + (f" ({signed_count(since.rejected)})" if since else "")
        + (": " + ", ".join(f"{code(one.reason)} {count(one.count)}" for one in contents.rejects[:20]) if contents.rejects else "")
    )
    split = {name: manifest.split.get(name, 0) for name in ("labels", "leaks", "conflicts")}
    yield (
        f"- {several(split['labels'], 'label', 'labels')}; {several(split['leaks'], 'leaking query', 'leaking queries')}; "
        f"{several(split['conflicts'], 'group', 'groups')} of equal items with more than one label"
    )


def _gate(contents: Contents) -> Iterator[str]:
    if contents.figures.gate:
        yield "## Gate\n"
        rows = [
            ("✓ held" if rule.held else "✗ broken", code(rule.rule), figure(rule.measured), figure(rule.limit))
            for rule in contents.figures.gate
        ]
        yield from _table(("", "rule", "measured", "limit"), rows[:40])


def _rest(_: Contents) -> Iterator[str]:
    yield "Pictures, labels, curves and the space: `report.html`. All figures: `metrics.json`. Both lie beside this file."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """With columns as wide as their widest cell, so that it can be read before it is rendered too."""
    cells = [list(head), *map(list, rows)]
    widths = [max(3, *(len(row[at]) for row in cells)) for at in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    return iter([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
