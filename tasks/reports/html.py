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

from indexmill.tasks.reports import example_queries, formats, metric_tables, svg
from indexmill.tasks.reports.glossary import meaning, over
from indexmill.tasks.reports.metric_tables import list_cross_modal_rows, list_cutoff_rows
from indexmill.tasks.reports.model import ReportModel
from indexmill.tasks.reports.svg import sparkline
from indexmill.tasks.reports.thumbnails import MAX_THUMBNAIL_BYTES, make_thumbnails

MAX_PAGE_BYTES = 10_000_000  # bytes of a page
TEMPLATE_FILTERS = (
    "count",
    "figure",
    "signed",
    "signed_count",
    "share",
    "probability",
    "milliseconds",
    "seconds",
    "several",
    "size",
    "clip",
)


def render_html(contents: ReportModel) -> str:
    """The page as text, under LARGEST bytes. Everything from data is escaped by the template, in attributes and in JSON as well.

    The page forbids itself the network, and every script but its own, by a Content-Security-Policy. Images of items and of rejects are read
    from the data set's folder, and left out where they are no longer there.
    """
    page = _render(contents, MAX_THUMBNAIL_BYTES)
    return page if len(page.encode()) < MAX_PAGE_BYTES else _render(contents, 0)


def _render(contents: ReportModel, budget: int) -> str:
    asked = example_queries.group_queries(contents)
    rejected = [
        (one, [example_queries.resolve_image_path(contents, item.get("path")) for item in one.examples]) for one in contents.rejects
    ]
    refused = [path for _, paths in rejected for path in paths if path]
    return _environment().get_template("page.html.j2").render(
        contents=contents, build_metrics=contents.build_metrics, manifest=contents.manifest, report_data=contents.report_data,
        headlines=metric_tables.headlines(contents), summed=metric_tables.summed(contents), asked=asked, rejected=rejected,
        pictures=make_thumbnails([*refused, *example_queries.paths(asked)], budget),
        latency=metric_tables.latency(contents.build_metrics), stage_seconds=metric_tables.stage_seconds(contents.build_metrics),
        config=formats.clip_lines(json.dumps(contents.manifest.config, indent=2, ensure_ascii=False)),
        **_build_plots(contents),
    )  # fmt: skip


def _build_plots(contents: ReportModel) -> dict[str, Any]:
    """Plots, and the space in two and in three dimensions."""
    from indexmill.tasks.reports import plots  # here: matplotlib takes most of a second, and a night without changes draws nothing

    build_metrics, report_data = contents.build_metrics, contents.report_data
    sample = report_data.get("space") or {}
    of = svg.build_legend(sample.get("labels", []))
    curve, sweep = report_data.get("precision_recall") or {"recall": []}, report_data.get("sweep") or []
    cut = any(f"{name}_{k}" in build_metrics.metrics for name, *_ in plots.CUTOFF_LINES for k in build_metrics.k)
    return {
        "cutoffs": Markup(plots.plot_cutoffs(build_metrics.metrics, build_metrics.k)) if cut else "",  # noqa: S704  # numbers alone
        "curve": Markup(plots.plot_precision_recall(curve["recall"], curve["precision"])) if curve["recall"] else "",  # noqa: S704
        "swept": Markup(plots.plot_recall_vs_speed(sweep)) if len(sweep) > 1 else "",  # noqa: S704
        "sample": sample, "legend": of, "clouds": svg.plot_2d(sample, of), "turning": svg.turning(sample, of),
    }  # fmt: skip


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("indexmill.tasks.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {name: getattr(formats, name) for name in TEMPLATE_FILTERS}
    script = _read_template_file("turning.js")
    environment.globals |= {
        "style": Markup(_read_template_file("style.css")), "script": Markup(script), "script_digest": _csp_hash(script),  # noqa: S704  # our own files
        "meaning": meaning, "over": over, "get_metric_row": metric_tables.get_metric_row, "describe_change": metric_tables.change,
        "sparkline": sparkline, "list_cutoff_rows": list_cutoff_rows, "list_cross_modal_rows": list_cross_modal_rows, "visible_queries": example_queries.VISIBLE_QUERIES,
    }  # fmt: skip
    return environment


def _read_template_file(name: str) -> str:
    return (resources.files("indexmill.tasks.reports") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(script: str) -> str:
    """What the page's policy names the script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
