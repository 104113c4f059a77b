"""The report: one HTML file that opens from disk with no network, verdict first."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from indexmill.tasks.reports import comparing, formats, queries, space, speed
from indexmill.tasks.reports.contents import Contents
from indexmill.tasks.reports.cutoffs import at_cutoffs, both_ways
from indexmill.tasks.reports.glossary import meaning, over
from indexmill.tasks.reports.thumbnails import BUDGET, thumbnails
from indexmill.tasks.reports.trends import sparkline

LARGEST = 10_000_000  # bytes of a page
FILTERS = ("count", "figure", "signed", "signed_count", "share", "probability", "milliseconds", "seconds", "several", "size", "clip")


def render_html(contents: Contents) -> str:
    """The page as text, under LARGEST bytes. Everything from data is escaped by the template, in attributes and in JSON as well.

    The page forbids itself the network, and every script but its own, by a Content-Security-Policy. Images of items and of rejects are read
    from the data set's folder, and left out where they are no longer there.
    """
    page = _render(contents, BUDGET)
    return page if len(page.encode()) < LARGEST else _render(contents, 0)


def _render(contents: Contents, budget: int) -> str:
    asked = queries.kinds(contents)
    rejected = [(one, [queries.picture_path(contents, item.get("path")) for item in one.examples]) for one in contents.rejects]
    refused = [path for _, paths in rejected for path in paths if path]
    return _environment().get_template("page.html.j2").render(
        contents=contents, figures=contents.figures, manifest=contents.manifest, sketches=contents.sketches,
        headlines=comparing.headlines(contents), summed=comparing.summed(contents), asked=asked, rejected=rejected,
        pictures=thumbnails([*refused, *queries.paths(asked)], budget),
        latency=speed.latency(contents.figures), stages=speed.stages(contents.figures),
        config=formats.clip_lines(json.dumps(contents.manifest.config, indent=2, ensure_ascii=False)),
        **_drawn(contents),
    )  # fmt: skip


def _drawn(contents: Contents) -> dict[str, Any]:
    """Plots, and the space in two and in three dimensions."""
    from indexmill.tasks.reports import plots  # here: matplotlib takes most of a second, and a night without changes draws nothing

    figures, sketches = contents.figures, contents.sketches
    sample = sketches.get("space") or {}
    of = space.legend(sample.get("labels", []))
    curve, sweep = sketches.get("precision_recall") or {"recall": []}, sketches.get("sweep") or []
    cut = any(f"{name}_{k}" in figures.metrics for name, *_ in plots.LINES for k in figures.k)
    return {
        "cutoffs": Markup(plots.by_cutoff(figures.metrics, figures.k)) if cut else "",  # noqa: S704  # numbers alone
        "curve": Markup(plots.precision_recall(curve["recall"], curve["precision"])) if curve["recall"] else "",  # noqa: S704
        "swept": Markup(plots.recall_against_speed(sweep)) if len(sweep) > 1 else "",  # noqa: S704
        "sample": sample, "legend": of, "clouds": space.flat(sample, of), "turning": space.turning(sample, of),
    }  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("indexmill.tasks.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: getattr(formats, name) for name in FILTERS}
    script = _part("turning.js")
    environment.globals |= {
        "style": Markup(_part("style.css")), "script": Markup(script), "script_digest": _digest(script),  # noqa: S704  # our own files
        "meaning": meaning, "over": over, "figure_of": comparing.figure_of, "change_of": comparing.change,
        "sparkline": sparkline, "at_cutoffs": at_cutoffs, "both_ways": both_ways, "shown_at_once": queries.SHOWN,
    }  # fmt: skip
    return environment


def _part(name: str) -> str:
    return (resources.files("indexmill.tasks.reports") / "templates" / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """What the page's policy names the script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
