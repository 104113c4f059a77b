"""The report shows the metrics of metrics.json with their changes and denominators."""

# ruff: noqa: RUF001, RUF002  # the minus sign and the dash are what the report prints
from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from indexmill.storage.metrics_file import MetricComparison
from indexmill.tasks.reports import metric_tables
from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.markdown import render_markdown
from indexmill.tasks.reports.metric_definitions import METRIC_DEFINITIONS, define_metric, describe_population
from indexmill.tasks.reports.model import ReportModel
from tests.reports import report_models


def read_words(page: str) -> str:
    """Return the text of a page without tags, styles and scripts, in single spaces."""
    bare = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(bare).split())


@pytest.fixture(scope="module")
def images(digits: Path) -> ReportModel:
    return report_models.make_images_report(digits)


@pytest.fixture(scope="module")
def page(images: ReportModel) -> str:
    return render_html(images)


def test_headline_metrics_show_value_interval_denominator_and_change(page: str) -> None:
    """mAP rose significantly, nDCG fell significantly, and the change of precision@10 is not significant."""
    text = read_words(page)
    assert "mAP 0.731 95% CI 0.719–0.742; 1,200 judged queries ▲ +0.021, significantly better (p < 0.001)" in text
    assert "▼ −0.012, significantly worse (p = 0.012)" in text
    assert "▲ +0.001, not significant (p = 0.410)" in text
    assert "ANN recall@10 0.969 95% CI 0.957–0.980; 1,234 held-out queries ▲ +0.002, not tested" in text
    assert 'class="change better"' in page
    assert 'class="change worse"' in page


def test_changes_are_summarized_beside_the_verdict(images: ReportModel, page: str) -> None:
    """The significant changes by name, then the items."""
    summary = "mAP significantly better; nDCG@10 significantly worse; items: 321 added, 5 changed, 17 removed"
    assert metric_tables.summarize_changes(images) == summary
    assert summary in read_words(page)
    assert summary in render_markdown(images)


@pytest.mark.parametrize(
    ("name", "difference", "p", "tone", "words"),
    [
        ("map", 0.02, 0.049, "better", "significantly better (p = 0.049)"),
        ("map", 0.02, 0.05, "even", "not significant (p = 0.050)"),
        ("map", -0.02, 0.001, "worse", "significantly worse (p = 0.001)"),
        ("ann_share_below_half_at_10", 0.02, 0.01, "worse", "significantly worse (p = 0.010)"),
        ("ann_distance_ratio_at_10", -0.02, 0.01, "better", "significantly better (p = 0.010)"),
        ("map", 0.0, 0.001, "even", "no change"),
        ("map", 0.02, None, "even", "not significant (p unknown)"),
    ],
)
def test_a_change_is_significant_below_alpha_and_better_by_direction(
    images: ReportModel, name: str, difference: float, p: float | None, tone: str, words: str
) -> None:
    """For metrics where lower is better, a rise is worse; without a test no change is significant."""
    comparison = MetricComparison(
        queries=9, baseline=0.5, candidate=0.5 + difference, difference=difference, low=None, high=None, p_bootstrap=p, p_wilcoxon=None
    )
    build_metrics = images.build_metrics.model_copy(
        update={"diff": report_models.make_diff().model_copy(update={"metrics": {name: comparison}})}
    )
    change = metric_tables.describe_change(ReportModel(build_metrics, images.manifest, "", {}, [], []), name)
    assert change is not None
    assert (change.tone, change.words) == (tone, words)
    assert change.sign == ("▲" if difference > 0 else "▼" if difference < 0 else "=")


def test_a_first_build_has_no_changes() -> None:
    """Without an earlier snapshot neither format compares anything."""
    report = report_models.make_texts_report()
    assert all(row.change is None for row in metric_tables.list_headline_metrics(report))
    assert 'class="change' not in render_html(report)
    assert "This is the first snapshot; there is nothing to compare it with." in read_words(render_html(report))
    assert "This is the first snapshot." in render_markdown(report)


def test_a_trend_ends_with_this_build(images: ReportModel) -> None:
    """Eleven earlier values and this one, oldest first."""
    trend = metric_tables.get_metric_row(images, "map").trend
    assert len(trend) == 12
    assert trend[-1] == 0.7312
    assert trend == sorted(trend)


def test_every_section_of_a_full_build_is_shown(page: str) -> None:
    """Items, gate, labels, confusions, cutoffs, sweep, latency, stages, drift and provenance, each with its numbers."""
    text = read_words(page)
    for expected in (
        "items served 8,023 6,789 database, 1,234 query",
        "added 321",
        "changed 5 same key, new content; 2 relabeled",
        "removed 17 8,000 unchanged",
        "rejected 9 0.1% of all, −2 since the live snapshot",
        "damaged: 7",
        "and 6 more",
        "3 queries leak: each is nearly a copy of a database item. Metrics exclude them.",
        "1 content group has more than one label.",
        "✓ passed minimum.ann_recall_at_10 0.969 0.950 ann_recall_at_10 is 0.9688, and must be at least 0.95",
        "0 90 400 0.950 0.900",
        "0 1 50 12%",
        "precision@k 0.870 0.840 0.811 0.784",
        "hit rate@k 0.870 0.952 0.971 0.993",
        "nprobe 8 0.950 80 µs ◉ chosen",
        "Encoding takes 99.4% of the time of one query, search 0.6% (medians).",
        "search, p50 82 µs p95 0.12 ms, p99 0.20 ms",
        "index size 5.1 kB per vector; 34.8 MB in total",
        "encode 3 min 22 s",
        "imbalance 1.280 1.310",
        "reused: changed 0.04, at most 0.3",
        "timm-resnet18-0123",
        "faiss-cpu 1.15.0",
        "The first two components explain 31% and 18% of the variance.",
        "kNN purity@10 0.812 , silhouette 0.143",
    ):
        assert expected in text, expected


def test_the_reason_for_a_refused_or_forced_build_comes_first(images: ReportModel) -> None:
    """Failed rules and the reason for force come before the first metric."""
    refused, forced = report_models.refuse(images), report_models.refuse(images, "labels were cleaned on purpose")
    text = read_words(render_html(refused))
    assert text.index("✗ Refused") < text.index("map fell from 0.7812 to 0.7312") < text.index("at least 0.9") < text.index("Metrics mAP")
    assert f"Snapshot {report_models.LIVE} stays live." in text
    text = read_words(render_html(forced))
    assert (
        text.index("! Published by force")
        < text.index("labels were cleaned on purpose")
        < text.index("map fell from")
        < text.index("Metrics mAP")
    )
    assert "# photographs: ✗ refused" in render_markdown(refused)
    assert "# photographs: ! published by force" in render_markdown(forced)
    assert "Reason for publishing: labels were cleaned on purpose" in render_markdown(forced)
    assert "✗ failed | `maximum_drop.map`" in render_markdown(refused)


def test_scored_pairs_are_shown_by_file(images: ReportModel) -> None:
    """Correlations by file, – for an undefined one; rejected texts with snippets; no section for labels."""
    text = read_words(render_html(report_models.make_texts_report()))
    assert "overall 0.823 0.831 8,628 sts-test 0.802 – 1,379" in text
    assert "empty_text: 3" in text
    assert "Relevance by label" not in text
    assert "An item is relevant if a scored pair joins it to the query" in text
    assert "A person number 7 is playing an instrument near the river." in text


def test_cross_modal_metrics_have_one_row_per_direction(digits: Path) -> None:
    """recall@1, @5, @10 and the median rank, which need not be a whole number."""
    text = read_words(render_html(report_models.make_captions_report(digits)))
    assert "text → image 0.330 0.410 0.510 3.000 image → text 0.330 0.410 0.510 4.500" in text
    assert "query (its caption)" in text


def test_a_build_without_queries_says_so() -> None:
    """There are no plots and no empty sections."""
    page = render_html(report_models.make_unmeasured_report())
    assert "No queries were held out, so nothing was measured." in read_words(page)
    assert "<svg" not in page
    assert 'id="queries"' not in page
    assert "Nothing was measured." in render_markdown(report_models.make_unmeasured_report())


def test_every_metric_has_a_definition_and_a_population(images: ReportModel) -> None:
    """Each name in metrics.json is explained, and each mean says what it is taken over."""
    for name in images.build_metrics.metrics:
        assert define_metric(name).explanation, name
        assert re.search(r"\d", describe_population(images, name)), name
    assert define_metric("precision_at_10").label == "precision@10"
    assert not define_metric("ann_share_below_half_at_10").higher_is_better
    assert define_metric("map_at_10").explanation != define_metric("map").explanation
    assert define_metric("new_measure").label == "new_measure"
    assert len({definition.label for definition in METRIC_DEFINITIONS.values()}) == len(METRIC_DEFINITIONS)
