"""The report of a build, whatever its verdict: metrics.json for services, report.html and report.md for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from indexmill.storage import tables
from indexmill.storage.history import remembered
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile
from indexmill.storage.records import FileRef
from indexmill.tasks.publishing.build import Build, Served
from indexmill.tasks.publishing.verdict import Verdict
from indexmill.tasks.reports.contents import Contents, Rejects
from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.markdown import render_markdown

REJECTS_SHOWN = 6  # of each reason
HISTORY = 60  # builds


class Reported(NamedTuple):
    """files: name in the snapshot -> file."""

    figures: MetricsFile
    files: dict[str, FileRef]


def report(build: Build, served: Served, manifest: Manifest, verdict: Verdict) -> Reported:
    """Write the report beside the evaluation's tables, metrics.json last."""
    root, evaluation = build.root, build.evaluation
    folder = root.file(evaluation.per_query).parent / manifest.snapshot_id
    figures = _figures(build, manifest, verdict)
    rejects = _rejects(build, served)
    sketches = json.loads(root.verified(evaluation.sketches).read_text(encoding="utf-8"))
    history = [one for one in remembered(root, manifest.name) if one.snapshot_id != manifest.snapshot_id]
    contents = Contents(
        figures=figures.model_copy(update={"rejects": {one.reason: one.count for one in rejects}}), manifest=manifest,
        description=build.config.description, sketches=sketches, rejects=rejects, history=history[-HISTORY:],
    )  # fmt: skip
    written: dict[str, Path] = {}
    for name, text in (
        ("report.html", render_html(contents)),
        ("report.md", render_markdown(contents)),
        ("metrics.json", contents.figures.model_dump_json(indent=2) + "\n"),
    ):
        written[name] = folder / name
        root.scratch.write_text(written[name], text)
    files = {path.name: path for path in map(root.file, (evaluation.per_query, evaluation.per_label, evaluation.study, *evaluation.trec))}
    return Reported(contents.figures, {f"report/{name}": root.ref(path) for name, path in (files | written).items()})


def _figures(build: Build, manifest: Manifest, verdict: Verdict) -> MetricsFile:
    evaluation, config = build.evaluation, build.config
    setting = {name: value for name, value in build.tuned.setting.model_dump().items() if value}
    index = {"factory": manifest.factory, "metric": manifest.metric, "dim": manifest.dim, "rerank": build.trained.rerank}
    return MetricsFile(
        name=manifest.name, snapshot_id=manifest.snapshot_id, parent=manifest.parent, created_at=manifest.created_at,
        verdict=manifest.verdict, objections=manifest.objections, forced=manifest.forced, modality=manifest.modality, holds=manifest.holds,
        asks=config.evaluation.asks or manifest.holds,
        encoder={"kind": config.encoder.kind, "model": config.encoder.model, "fingerprint": manifest.fingerprint},
        index=index | {"setting": setting, "shards": len(manifest.shards)}, k=config.evaluation.k, judged_by=evaluation.judged_by,
        counts=evaluation.counts | {"items": manifest.items, "rejected": manifest.rejected, "leaks": manifest.split["leaks"]},
        metrics=evaluation.metrics, intervals=evaluation.intervals, graded=evaluation.graded,
        timings=evaluation.timings, stages=dict(build.seconds), rejects={}, since=verdict.since, gate=verdict.rules,
    )  # fmt: skip


def _rejects(build: Build, served: Served) -> list[Rejects]:
    """By reason, the most frequent first. An image that came in as a file is where its key says."""
    table, spill = tables.parquet(build.root.file(served.rejects)), build.root.tmp
    counts = tables.rows(f"SELECT reason, count(*) FROM {table} GROUP BY 1 ORDER BY 2 DESC, 1", spill=spill)
    first = f"SELECT key, message FROM {table} WHERE reason = $reason ORDER BY item_id LIMIT {REJECTS_SHOWN}"
    images = build.split.modality == "image"
    return [
        Rejects(
            reason,
            count,
            [
                {"key": key, "path": key if images else None, "message": message}
                for key, message in tables.rows(first, {"reason": reason}, spill=spill)
            ],
        )
        for reason, count in counts
    ]
