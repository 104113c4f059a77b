"""Write the report of a build, published or refused: metrics.json, report.html and report.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from indexmill.storage import parquet
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile, read_metrics_history
from indexmill.storage.records import FileRef
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards
from indexmill.tasks.publishing.gate import GateVerdict
from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.markdown import render_markdown
from indexmill.tasks.reports.model import RejectGroup, ReportModel

EXAMPLES_PER_REASON = 6  # of each reason
HISTORY_BUILDS = 60  # builds


class BuildReport(NamedTuple):
    """files: name in the snapshot -> file."""

    build_metrics: MetricsFile
    files: dict[str, FileRef]


def report(build: BuildCandidate, served: ServedShards, manifest: Manifest, verdict: GateVerdict) -> BuildReport:
    """Write the report beside the evaluation's tables, metrics.json last."""
    root, evaluation = build.root, build.evaluation
    folder = root.file(evaluation.per_query).parent / manifest.snapshot_id
    build_metrics = _build_metrics_file(build, manifest, verdict)
    rejects = _group_rejects(build, served)
    report_data = json.loads(root.verify_file(evaluation.report_data).read_text(encoding="utf-8"))
    history = [one for one in read_metrics_history(root, manifest.name) if one.snapshot_id != manifest.snapshot_id]
    contents = ReportModel(
        build_metrics=build_metrics.model_copy(update={"rejects": {one.reason: one.count for one in rejects}}), manifest=manifest,
        description=build.config.description, report_data=report_data, rejects=rejects, history=history[-HISTORY_BUILDS:],
    )  # fmt: skip
    written: dict[str, Path] = {}
    for name, text in (
        ("report.html", render_html(contents)),
        ("report.md", render_markdown(contents)),
        ("metrics.json", contents.build_metrics.model_dump_json(indent=2) + "\n"),
    ):
        written[name] = folder / name
        root.scratch.write_text(written[name], text)
    files = {
        path.name: path for path in map(root.file, (evaluation.per_query, evaluation.per_label, evaluation.search_sweep, *evaluation.trec))
    }
    return BuildReport(contents.build_metrics, {f"report/{name}": root.make_ref(path) for name, path in (files | written).items()})


def _build_metrics_file(build: BuildCandidate, manifest: Manifest, verdict: GateVerdict) -> MetricsFile:
    evaluation, config = build.evaluation, build.config
    params = {name: value for name, value in build.tuned.params.model_dump().items() if value}
    index = {"factory": manifest.factory, "metric": manifest.metric, "dim": manifest.dim, "rerank": build.trained.rerank}
    return MetricsFile(
        name=manifest.name, snapshot_id=manifest.snapshot_id, parent=manifest.parent, created_at=manifest.created_at,
        verdict=manifest.verdict, failed_rules=manifest.failed_rules, force_reason=manifest.force_reason, modality=manifest.modality, index_modality=manifest.index_modality,
        query_modality=config.evaluation.query_modality or manifest.index_modality,
        encoder={"kind": config.encoder.kind, "model": config.encoder.model, "fingerprint": manifest.fingerprint},
        index=index | {"params": params, "shards": len(manifest.shards)}, k=config.evaluation.k, relevance_source=evaluation.relevance_source,
        counts=evaluation.counts | {"items": manifest.items, "rejected": manifest.rejected, "leaks": manifest.split["leaks"]},
        metrics=evaluation.metrics, intervals=evaluation.intervals, scored_pairs=evaluation.scored_pairs,
        timings=evaluation.timings, stage_seconds=dict(build.seconds), rejects={}, diff=verdict.diff, gate=verdict.rules,
    )  # fmt: skip


def _group_rejects(build: BuildCandidate, served: ServedShards) -> list[RejectGroup]:
    """By reason, the most frequent first. An image that came in as a file is where its key says."""
    table, temp_dir = parquet.scan_sql(build.root.file(served.rejects)), build.root.tmp
    counts = parquet.fetch_rows(f"SELECT reason, count(*) FROM {table} GROUP BY 1 ORDER BY 2 DESC, 1", temp_dir=temp_dir)
    first = f"SELECT key, message FROM {table} WHERE reason = $reason ORDER BY item_id LIMIT {EXAMPLES_PER_REASON}"
    images = build.split.modality == "image"
    return [
        RejectGroup(
            reason,
            count,
            [
                {"key": key, "path": key if images else None, "message": message}
                for key, message in parquet.fetch_rows(first, {"reason": reason}, temp_dir=temp_dir)
            ],
        )
        for reason, count in counts
    ]
