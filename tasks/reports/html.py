"""Render the report as one HTML file that works from disk without a network, verdict first."""

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
from indexmill.tasks.reports.encoding_notes import list_encoding_notes
from indexmill.tasks.reports.metric_definitions import define_metric
from indexmill.tasks.reports.model import ReportModel
from indexmill.tasks.reports.thumbnails import MAX_THUMBNAIL_BYTES, make_thumbnails

MAX_PAGE_BYTES = 10_000_000


def render_html(report: ReportModel) -> str:
    """Render the page, in less than MAX_PAGE_BYTES.

    The templates escape every string from data, in text, attributes and JSON. A Content-Security-Policy forbids
    network access and all scripts but the page's own. Images are read from the image root; those that are gone are
    left out.
    """
    page = _render(report, MAX_THUMBNAIL_BYTES)
    return page if len(page.encode()) < MAX_PAGE_BYTES else _render(report, 0)


def _render(report: ReportModel, thumbnail_budget: int) -> str:
    build_metrics = report.build_metrics
    query_groups = example_queries.group_queries(report)
    reject_groups = [
        (group, [example_queries.resolve_image_path(report, item.get("path")) for item in group.examples]) for group in report.rejects
    ]
    reject_paths = [path for _, paths in reject_groups for path in paths if path]
    context = {
        "report": report,
        "build_metrics": build_metrics,
        "manifest": report.manifest,
        "encoding_notes": list_encoding_notes(report.manifest),
        "report_data": report.report_data,
        "headlines": metric_tables.list_headline_metrics(report),
        "change_summary": metric_tables.summarize_changes(report),
        "query_groups": query_groups,
        "reject_groups": reject_groups,
        "thumbnails": make_thumbnails([*reject_paths, *example_queries.list_image_paths(query_groups)], thumbnail_budget),
        "latency": metric_tables.get_latency(build_metrics),
        "stage_times": metric_tables.list_stage_times(build_metrics),
        "cutoff_rows": metric_tables.list_cutoff_rows(build_metrics),
        "query_sets": metric_tables.list_query_sets(report),
        "cross_modal_rows": metric_tables.list_cross_modal_rows(build_metrics),
        "config": formats.clip_lines(json.dumps(report.manifest.config, indent=2, ensure_ascii=False)),
    }
    return _environment().get_template("page.html.j2").render(**context, **_build_plots(report))


def _build_plots(report: ReportModel) -> dict[str, Any]:
    """Draw the plots, and the embedding space in two and three dimensions."""
    from indexmill.tasks.reports import plots  # imported here: matplotlib takes most of a second, and unchanged builds do not need it

    build_metrics, report_data = report.build_metrics, report.report_data
    sample = report_data.get("space") or {}
    legend = svg.build_legend(sample.get("labels", []))
    curve, sweep = report_data.get("precision_recall") or {"recall": []}, report_data.get("sweep") or []
    has_cutoffs = any(f"{name}_{k}" in build_metrics.metrics for name, *_ in plots.CUTOFF_LINES for k in build_metrics.k)
    # Markup is safe here: plots contain only numbers and our own words.
    return {
        "cutoff_plot": Markup(plots.plot_cutoffs(build_metrics.metrics, build_metrics.k)) if has_cutoffs else "",  # noqa: S704
        "precision_recall_plot": (
            Markup(plots.plot_precision_recall(curve["recall"], curve["precision"])) if curve["recall"] else ""  # noqa: S704
        ),
        "sweep_plot": Markup(plots.plot_recall_vs_speed(sweep)) if len(sweep) > 1 else "",  # noqa: S704
        "sample": sample,
        "legend": legend,
        "scatter_plots": svg.plot_2d(sample, legend),
        "plot_3d": svg.plot_3d(sample, legend),
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("indexmill.tasks.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= formats.FILTERS
    script = _read_template_file("rotate.js")
    # Markup is safe here: these are our own files.
    environment.globals |= {
        "style": Markup(_read_template_file("style.css")),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "script_digest": _csp_hash(script),
        "define_metric": define_metric,
        "get_metric_row": metric_tables.get_metric_row,
        "describe_change": metric_tables.describe_change,
        "make_sparkline": svg.make_sparkline,
        "plot_size": (svg.PLOT_WIDTH, svg.PLOT_HEIGHT),
        "visible_queries": example_queries.VISIBLE_QUERIES,
    }
    return environment


def _read_template_file(name: str) -> str:
    return (resources.files("indexmill.tasks.reports") / "templates" / name).read_text(encoding="utf-8")


def _csp_hash(script: str) -> str:
    """Return the hash that the Content-Security-Policy allows the script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
