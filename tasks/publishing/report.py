"""Write the report of a build, published or refused: metrics.json, report.html and report.md."""

from __future__ import annotations

import json
from typing import NamedTuple

from indexmill.storage import parquet
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import SKIPPED, MetricsFile, read_metrics_history
from indexmill.storage.records import FileRef
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards
from indexmill.tasks.publishing.gate import GateVerdict
from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.markdown import render_markdown
from indexmill.tasks.reports.model import RejectGroup, ReportModel

EXAMPLES_PER_REASON = 6
HISTORY_BUILDS = 60


class BuildReport(NamedTuple):
    """The metrics of a build, and the files of its report by their names in the snapshot."""

    metrics: MetricsFile
    files: dict[str, FileRef]


def write_report(build: BuildCandidate, served: ServedShards, manifest: Manifest, verdict: GateVerdict) -> BuildReport:
    """Write report.html, report.md and, last, metrics.json beside the evaluation's tables."""
    root, evaluation = build.root, build.evaluation
    folder = root.file(evaluation.per_query).parent / manifest.snapshot_id
    rejects = _group_rejects(build, served)
    metrics = _build_metrics_file(build, manifest, verdict, rejects)
    history = [earlier for earlier in read_metrics_history(root, manifest.name) if earlier.snapshot_id != manifest.snapshot_id]
    model = ReportModel(
        build_metrics=metrics,
        manifest=manifest,
        description=build.config.description,
        report_data=json.loads(root.verify_file(evaluation.report_data).read_text(encoding="utf-8")),
        rejects=rejects,
        history=history[-HISTORY_BUILDS:],
    )
    texts = {
        "report.html": render_html(model),
        "report.md": render_markdown(model),
        "metrics.json": metrics.model_dump_json(indent=2) + "\n",
    }
    for name, text in texts.items():
        root.scratch.write_text(folder / name, text)
    tables = map(root.file, (evaluation.per_query, evaluation.per_label, evaluation.search_sweep, *evaluation.trec))
    paths = {path.name: path for path in tables} | {name: folder / name for name in texts}
    return BuildReport(metrics, {f"report/{name}": root.make_ref(path) for name, path in paths.items()})


def _build_metrics_file(build: BuildCandidate, manifest: Manifest, verdict: GateVerdict, rejects: list[RejectGroup]) -> MetricsFile:
    evaluation, config = build.evaluation, build.config
    return MetricsFile(
        name=manifest.name,
        snapshot_id=manifest.snapshot_id,
        parent=manifest.parent,
        created_at=manifest.created_at,
        verdict=manifest.verdict,
        failed_rules=manifest.failed_rules,
        force_reason=manifest.force_reason,
        modality=manifest.modality,
        index_modality=manifest.index_modality,
        query_modality=(
            build.embeddings.query_sets[0].embeddings.modality
            if build.embeddings.query_sets
            else config.evaluation.query_modality or manifest.index_modality
        ),
        encoder={"kind": config.encoder.kind, "model": config.encoder.model, "fingerprint": manifest.fingerprint},
        index={
            "factory": manifest.factory,
            "metric": manifest.metric,
            "dim": manifest.dim,
            "rerank": build.trained.rerank,
            "params": {name: value for name, value in build.tuned.params.model_dump().items() if value},
            "shards": len(manifest.shards),
        },
        k=config.evaluation.k,
        relevance_source=evaluation.relevance_source,
        counts=evaluation.counts
        | {"items": manifest.items, "rejected": manifest.rejected, "leaks": manifest.split["leaks"]}
        | {SKIPPED + kind: number for kind, number in build.validated.skipped.items()},
        metrics=evaluation.metrics,
        intervals=evaluation.intervals,
        scored_pairs=evaluation.scored_pairs,
        timings=evaluation.timings,
        stage_seconds=dict(build.stage_seconds),
        rejects={group.reason: group.count for group in rejects},
        diff=verdict.diff,
        gate=verdict.rules,
    )


def _group_rejects(build: BuildCandidate, served: ServedShards) -> list[RejectGroup]:
    """Group rejects by reason, the most frequent first, each with a few examples. The path of an image file is its key."""
    table = parquet.scan_sql(build.root.file(served.rejects))
    is_image = build.split.modality == "image"
    counts = parquet.fetch_rows(f"SELECT reason, count(*) FROM {table} GROUP BY 1 ORDER BY 2 DESC, 1", temp_dir=build.root.tmp)
    examples_sql = f"SELECT key, message FROM {table} WHERE reason = $reason ORDER BY item_id LIMIT {EXAMPLES_PER_REASON}"
    groups = []
    for reason, count in counts:
        rows = parquet.fetch_rows(examples_sql, {"reason": reason}, temp_dir=build.root.tmp)
        examples = [{"key": key, "path": key if is_image else None, "message": message} for key, message in rows]
        groups.append(RejectGroup(reason, count, examples))
    return groups
