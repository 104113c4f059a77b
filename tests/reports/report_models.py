"""Report models like those of real builds, assembled by hand: images, texts, captions, and a build without queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from indexmill.storage.index_records import SearchParams, TunedIndex
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import GateRule, MetricComparison, MetricsFile, PairCorrelation, SnapshotDiff
from indexmill.tasks.reports.model import RejectGroup, ReportModel

KS = (1, 5, 10, 50)
NOW, LIVE = "000012-abcdef0123", "000011-0123456789"
METRICS = (
    {
        "map": 0.7312,
        "mrr": 0.9011,
        "r_precision": 0.6923,
        "map_by_label": 0.7188,
        "map_full_depth": 0.7421,
        "ann_recall_at_1": 0.9871,
        "ann_recall_at_5": 0.9755,
        "ann_recall_at_10": 0.9688,
        "ann_recall_at_50": 0.9512,
        "ann_distance_recall_at_10": 0.9701,
        "ann_distance_ratio_at_10": 1.0042,
        "ann_share_below_half_at_10": 0.0031,
        "knn_purity_at_10": 0.8123,
        "silhouette": 0.1432,
    }
    | {
        f"{name}_at_{k}": round(base ** (1 + position / 4), 4)
        for name, base in (("precision", 0.87), ("ndcg", 0.91), ("map", 0.7))
        for position, k in enumerate(KS)
    }
    | {f"recall_at_{k}": value for k, value in zip(KS, (0.012, 0.055, 0.103, 0.412), strict=True)}
    | {f"hit_rate_at_{k}": value for k, value in zip(KS, (0.87, 0.952, 0.971, 0.993), strict=True)}
)
TIMINGS = {
    "single_query_p50_ms": 0.0821,
    "single_query_p95_ms": 0.121,
    "single_query_p99_ms": 0.2,
    "single_queries": 1000.0,
    "threads": 2.0,
    "batch_queries_per_second": 51234.0,
    "batch_queries_per_second_min": 50000.0,
    "batch_queries_per_second_max": 52000.0,
    "batch_size": 1234.0,
    "batch_repeats": 5.0,
    "encode_query_p50_ms": 14.2,
    "encode_query_p95_ms": 16.1,
    "encode_query_p99_ms": 18.0,
    "encode_queries": 20.0,
    "bytes_per_vector": 5128.0,
}
STAGES = {"ingest": 1.2, "validate": 3.4, "split": 0.5, "encode": 201.7, "train": 4.0, "shard": 2.2, "tune": 9.1, "evaluate": 31.5}


def make_comparison(baseline: float, candidate: float, p: float | None) -> MetricComparison:
    """A comparison over 1,200 common queries."""
    difference = candidate - baseline
    return MetricComparison(
        queries=1200,
        baseline=baseline,
        candidate=candidate,
        difference=difference,
        low=difference - 0.004,
        high=difference + 0.004,
        p_bootstrap=p,
        p_wilcoxon=p,
    )


def make_diff() -> SnapshotDiff:
    """mAP is significantly better, nDCG significantly worse, precision@10 not significantly better."""
    comparisons = {
        "map": make_comparison(0.7102, 0.7312, 0.0004),
        "ndcg_at_10": make_comparison(0.88, 0.8675, 0.012),
        "precision_at_10": make_comparison(0.83, 0.8309, 0.41),
    }
    return SnapshotDiff(
        snapshot_id=LIVE,
        metrics=comparisons,
        churn_at_10=0.0712,
        common_queries=1200,
        items={"added": 321, "removed": 17, "changed": 5, "relabeled": 2, "kept": 8000},
        rejected=-2,
    )


def make_metrics_file(**changes: Any) -> MetricsFile:
    """The metrics of a build of labeled images."""
    intervals = {
        name: (value - 0.012, value + 0.011) for name, value in METRICS.items() if name.startswith(("map", "precision", "ann_recall"))
    }
    rules = (
        GateRule(
            rule="minimum.ann_recall_at_10",
            measured=0.9688,
            limit=0.95,
            passed=True,
            message="ann_recall_at_10 is 0.9688, and must be at least 0.95",
        ),
        GateRule(rule="maximum_drop.map", measured=-0.021, limit=0.01, passed=True, message="map went from 0.7102 to 0.7312, within 0.01"),
    )
    whole = {
        "name": "photographs",
        "snapshot_id": NOW,
        "parent": LIVE,
        "created_at": "2026-11-21T03:00:12+00:00",
        "verdict": "published",
        "failed_rules": (),
        "force_reason": None,
        "modality": "image",
        "index_modality": "image",
        "query_modality": "image",
        "encoder": {"kind": "timm", "model": "resnet18", "fingerprint": "timm-resnet18-0123"},
        "index": {"factory": "IVF64,Flat"},
        "k": KS,
        "relevance_source": "label",
        "metrics": METRICS,
        "intervals": intervals,
        "scored_pairs": {},
        "timings": TIMINGS,
        "stage_seconds": STAGES,
        "counts": {
            "queries": 1234,
            "queries_judged": 1200,
            "queries_full_depth": 1000,
            "database": 6789,
            "depth": 1000,
            "dim": 512,
            "labels": 14,
            "index_bytes": 34813992,
            "items": 8023,
            "rejected": 9,
            "leaks": 3,
        },
        "rejects": {"damaged": 7, "too_small": 2},
        "diff": make_diff(),
        "gate": rules,
    }
    return MetricsFile(**{**whole, **changes})


def make_manifest(build_metrics: MetricsFile, image_root: Path | None, **changes: Any) -> Manifest:
    """The manifest that belongs to the metrics."""
    whole = {
        "name": build_metrics.name,
        "snapshot_id": build_metrics.snapshot_id,
        "parent": build_metrics.parent,
        "created_at": build_metrics.created_at,
        "content": "c" * 32,
        "config": {"name": build_metrics.name, "split": {"leaks": "exclude"}, "dataset": {"source": "folder"}},
        "modality": build_metrics.modality,
        "image_root": str(image_root) if image_root else None,
        "index_modality": build_metrics.index_modality,
        "embedding_stores": {},
        "fingerprint": "timm-resnet18-0123",
        "encoder": {"kind": "timm", "model": "resnet18", "precision": "bfloat16"},
        "truncated": 4,
        "datasets": {"validated": "v" * 32, "split": "s" * 32},
        "factory": "IVF64,Flat",
        "metric": "cosine",
        "dim": 512,
        "items": 8023,
        "database": 6789,
        "query": 1234,
        "rejected": 9,
        "split": {"labels": 14, "groups": 7998, "conflicts": 1, "leaks": 3},
        "metrics": build_metrics.metrics,
        "timings": build_metrics.timings,
        "training": {
            "digest": "t" * 32,
            "reason": "reused: changed 0.04, at most 0.3",
            "signals": {"changed": 0.04, "imbalance": 1.31, "new": 0.04},
            "baseline": {"imbalance": 1.28, "list_error": 0.41},
            "sampled": 6789,
            "choice": (),
        },
        "search": TunedIndex(
            digest="d",
            files=(),
            shards="s",
            params=SearchParams(nprobe=8),
            target=0.95,
            met=True,
            recall=0.9688,
            recall_bound=0.961,
            cpu_ms_per_query=0.07,
            latency_met=None,
            reason="recall 0.95 is met with nprobe 8",
        ),
        "shards": (),
        "files": (),
        "pool_files": (),
        "verdict": build_metrics.verdict,
        "failed_rules": build_metrics.failed_rules,
        "force_reason": build_metrics.force_reason,
        "versions": {"indexmill": "0.1.0", "faiss-cpu": "1.15.0"},
        "threads": 2,
    }
    return Manifest(**{**whole, **changes})


def make_item(number: int, label: str | None, path: str | None = None, text: str | None = None) -> dict[str, Any]:
    """A row of the item table."""
    return {
        "item_id": number,
        "key": path or f"key-{number}",
        "label": label,
        "text": text,
        "path": path,
        "content_digest": f"{number:032x}",
    }


def make_examples(items: list[dict[str, Any]], count: int, results: int = 6) -> list[dict[str, Any]]:
    """Queries with their results, taken from the items in turn."""

    def make_result(at: int) -> dict[str, Any]:
        return {**items[at % len(items)], "score": 0.99 - at % 7 / 20}

    return [
        {
            "query": items[start % len(items)],
            "results": [make_result(start + at) for at in range(1, results + 1)],
            "average_precision": 0.5 + start / 1000,
        }
        for start in range(0, count * 7, 7)
    ]


def make_space(labels: list[str | None], count: int = 300, seed: int = 0) -> dict[str, Any]:
    """A sample with one cluster per label, PCA, and t-SNE of four fifths of it in two and three dimensions."""
    random = np.random.default_rng(seed)
    item_labels = [labels[at % len(labels)] for at in range(count)]
    centers = {label: random.normal(size=3) * 2 for label in labels}
    points = np.stack([centers[label] + random.normal(size=3) * 0.4 for label in item_labels])
    rows = np.setdiff1d(np.arange(count), np.arange(0, count, 5))
    layouts = [
        {
            "rows": rows.tolist(),
            "points": (points[rows, :size] * 9).round(4).tolist(),
            "dimensions": size,
            "perplexity": 30,
            "iterations": 500,
        }
        for size in (2, 3)
    ]
    return {
        "items": list(range(count)),
        "labels": item_labels,
        "pca": {"points": points.round(5).tolist(), "explained": [0.31, 0.18, 0.09]},
        "tsne": layouts,
        "knn_purity_at_10": 0.8123,
        "silhouette": 0.1432,
    }


def make_report_data(items: list[dict[str, Any]], labels: list[str | None], queries: int = 8) -> dict[str, Any]:
    """Everything that a report can show of a build with labels."""
    rows = make_examples(items, 3 * queries)
    names = [label for label in labels if label]
    by_label = [
        {"label": label, "queries": 90 - at, "database": 400 + at, "map": 0.9 - at / 20, "precision_at_50": 0.95 - at / 20}
        for at, label in enumerate(names)
    ]
    sweep = [
        {
            "nprobe": probe,
            "ef_search": None,
            "rerank_candidates": None,
            "recall_at_10": 1 - 0.4 / probe,
            "cpu_ms_per_query": 0.01 * probe,
            "chosen": probe == 8,
        }
        for probe in (1, 2, 4, 8, 16, 32)
    ]
    confusion = [
        {"query": names[at], "retrieved": names[at + 1], "count": 50 - at, "share": 0.12 - at / 100} for at in range(min(5, len(names) - 1))
    ]
    curve = {"recall": [at / 10 for at in range(11)], "precision": [0.98 - at * 0.06 for at in range(11)]}
    return {
        "examples": rows[:queries],
        "best": rows[queries : 2 * queries],
        "worst": rows[2 * queries :],
        "by_label": by_label,
        "confusion": confusion,
        "precision_recall": curve,
        "space": make_space(labels),
        "sweep": sweep,
    }


def make_history(count: int = 11) -> list[MetricsFile]:
    """Earlier builds with slowly rising metrics; the last one is the live snapshot."""
    builds = []
    for at in range(count):
        metrics = {name: value - 0.021 * (count - at) / count for name, value in METRICS.items()}
        snapshot = LIVE if at == count - 1 else f"{at:06d}-aaaaaaaaaa"
        builds.append(make_metrics_file(snapshot_id=snapshot, metrics=metrics, diff=None, verdict="refused" if at == 4 else "published"))
    return builds


def make_images_report(folder: Path, **changes: Any) -> ReportModel:
    """A nightly build of a folder of images, one folder per label, with rejects; `changes` apply to its metrics."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    items = [make_item(at, path.parent.name, path.relative_to(folder).as_posix()) for at, path in enumerate(files)]
    build_metrics = make_metrics_file(**changes)
    first = [
        {"key": entry["key"], "path": entry["path"], "message": "12 x 9 pixels; the shorter side must have at least 16"}
        for entry in items[:2]
    ]
    rejects = [
        RejectGroup("damaged", 7, [{"key": "gone/away.png", "path": "gone/away.png", "message": "SyntaxError: broken PNG file"}]),
        RejectGroup("too_small", 2, first),
    ]
    labels: list[str | None] = list(dict.fromkeys(entry["label"] for entry in items))
    return ReportModel(
        build_metrics,
        make_manifest(build_metrics, folder),
        "photographs, searched by similarity",
        make_report_data(items, labels),
        rejects,
        make_history(),
    )


def make_texts_report(**changes: Any) -> ReportModel:
    """The first build of sentences without labels, judged by scored pairs."""
    texts = [f"A person number {at} is playing an instrument near the {'river' if at % 2 else 'old town hall'}." for at in range(60)]
    items = [make_item(at, None, None, text) for at, text in enumerate(texts)]
    scored_pairs = {
        "overall": PairCorrelation(spearman=0.8234, pearson=0.8311, pairs=8628),
        "sts-test": PairCorrelation(spearman=0.8021, pearson=None, pairs=1379),
    }
    plain = {
        "modality": "text",
        "index_modality": "text",
        "query_modality": "text",
        "relevance_source": "pairs",
        "scored_pairs": scored_pairs,
        "diff": None,
        "parent": None,
        "gate": (),
    }
    build_metrics = make_metrics_file(**{**plain, **changes})
    drawn = make_report_data(items, [None]) | {"by_label": [], "confusion": []}
    rejects = [RejectGroup("empty_text", 3, [{"key": "row 17", "path": None, "text": "   ", "message": "the text has no characters"}])]
    return ReportModel(
        build_metrics,
        make_manifest(build_metrics, None, split={"labels": 0, "groups": 5000, "conflicts": 0, "leaks": 0}),
        "",
        drawn,
        rejects,
        [],
    )


def make_captions_report(folder: Path) -> ReportModel:
    """Images searched by their captions."""
    cross_modal = {f"{direction}_recall_at_{k}": 0.31 + k / 50 for direction in ("text_to_image", "image_to_text") for k in (1, 5, 10)}
    cross_modal |= {"text_to_image_median_rank": 3.0, "image_to_text_median_rank": 4.5}
    report = make_images_report(folder, query_modality="text", relevance_source=None, metrics={**METRICS, **cross_modal}, diff=None)
    for group in ("examples", "best", "worst"):
        for row in report.report_data[group]:
            for entry in (row["query"], *row["results"]):
                entry["text"] = f"a drawing of the number {entry['label']}"
    return report


def refuse(report: ReportModel, force_reason: str | None = None) -> ReportModel:
    """The same build with failed gate rules, published by force if a reason is given."""
    messages = ("map fell from 0.7812 to 0.7312, by more than 0.01", "precision_at_10 is 0.8309, and must be at least 0.9")
    names = ("maximum_drop.map", "minimum.precision_at_10")
    rules = tuple(
        GateRule(rule=name, measured=0.05, limit=0.01, passed=False, message=message) for name, message in zip(names, messages, strict=True)
    )
    changes = {"failed_rules": messages, "force_reason": force_reason, "verdict": "published" if force_reason is not None else "refused"}
    build_metrics = report.build_metrics.model_copy(update={**changes, "gate": rules})
    return replace(report, build_metrics=build_metrics, manifest=report.manifest.model_copy(update=changes))


def make_unmeasured_report() -> ReportModel:
    """A build without queries, and so almost without metrics."""
    counts = {
        "queries": 0,
        "queries_judged": 0,
        "queries_full_depth": 0,
        "database": 2,
        "depth": 2,
        "dim": 8,
        "labels": 0,
        "index_bytes": 64,
    }
    build_metrics = make_metrics_file(
        metrics={},
        intervals={},
        timings={"threads": 2.0, "bytes_per_vector": 32.0},
        counts=counts,
        relevance_source=None,
        diff=None,
        parent=None,
        gate=(),
        stage_seconds={},
        rejects={},
    )
    drawn = {
        "examples": [],
        "best": [],
        "worst": [],
        "by_label": [],
        "confusion": [],
        "precision_recall": {"recall": [], "precision": []},
        "space": {},
        "sweep": [],
    }
    return ReportModel(build_metrics, make_manifest(build_metrics, None, training={}, truncated=0), "", drawn, [], [])
