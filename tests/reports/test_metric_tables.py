"""Figures on the page are those of metrics.json, with the changes and denominators that belong to them."""

# ruff: noqa: RUF001, RUF002  # the minus sign and the dash are what the report prints
from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

from indexmill.storage.metrics_file import MetricComparison
from indexmill.tasks.reports import metric_tables
from indexmill.tasks.reports.glossary import METRIC_DEFINITIONS, meaning, over
from indexmill.tasks.reports.html import render_html
from indexmill.tasks.reports.markdown import render_markdown
from indexmill.tasks.reports.model import ReportModel
from tests.reports import made


def words(page: str) -> str:
    """The text of a page without its tags, styles and scripts, in single spaces."""
    bare = re.sub(r"<(style|script)\b.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(bare).split())


@pytest.fixture(scope="module")
def images(digits: Path) -> ReportModel:
    return made.of_images(digits)


@pytest.fixture(scope="module")
def page(images: ReportModel) -> str:
    return render_html(images)


def test_headlines_carry_value_interval_denominator_and_change(page: str) -> None:
    """mAP 0.7312 in [0.7192, 0.7422] over 1,200 judged queries rose by 0.021 (p = 0.0004); nDCG fell surely; precision@10 perhaps rose."""
    text = words(page)
    assert "mAP 0.731 95 %: 0.719–0.742; 1,200 judged queries ▲ +0.021, significantly better (p < 0.001)" in text
    assert "▼ −0.012, significantly worse (p = 0.012)" in text
    assert "▲ +0.001, not significant (p = 0.410)" in text
    assert "ANN recall@10 0.969 95 %: 0.957–0.980; 1,234 held-out queries ▲ +0.002, not tested" in text
    assert 'class="change better"' in page
    assert 'class="change worse"' in page


def test_what_changed_is_summed_up_beside_the_verdict(images: ReportModel, page: str) -> None:
    """The sure changes by name, then the items."""
    explanation = "mAP significantly better; nDCG@10 significantly worse; items: 321 added, 5 changed, 17 removed"
    assert metric_tables.summed(images) == explanation
    assert explanation in words(page)
    assert explanation in render_markdown(images)


@pytest.mark.parametrize(
    ("name", "difference", "p", "tone", "words"),
    [
        ("map", 0.02, 0.049, "better", "significantly better (p = 0.049)"),
        ("map", 0.02, 0.05, "even", "not significant (p = 0.050)"),
        ("map", -0.02, 0.001, "worse", "significantly worse (p = 0.001)"),
        ("ann_share_below_half_at_10", 0.02, 0.01, "worse", "significantly worse (p = 0.010)"),
        ("ann_distance_ratio_at_10", -0.02, 0.01, "better", "significantly better (p = 0.010)"),
        ("map", 0.0, 0.001, "even", "no change"),
        ("map", 0.02, None, "even", "not significant (p not known)"),
    ],
)
def test_a_change_is_sure_below_five_hundredths_and_good_by_its_direction(
    images: ReportModel, name: str, difference: float, p: float | None, tone: str, words: str
) -> None:
    """For measures where less is better, a rise is worse; without a test nothing is sure."""
    one = MetricComparison(
        queries=9, baseline=0.5, candidate=0.5 + difference, difference=difference, low=None, high=None, p_bootstrap=p, p_wilcoxon=None
    )
    build_metrics = images.build_metrics.model_copy(update={"diff": made.diff().model_copy(update={"metrics": {name: one}})})
    found = metric_tables.change(ReportModel(build_metrics, images.manifest, "", {}, [], []), name)
    assert found is not None
    assert (found.tone, found.words) == (tone, words)
    assert found.sign == ("▲" if difference > 0 else "▼" if difference < 0 else "=")


def test_a_first_build_has_no_changes() -> None:
    """Without an earlier snapshot nothing is compared, in either form."""
    contents = made.of_texts()
    assert all(one.change is None for one in metric_tables.headlines(contents))
    assert 'class="change' not in render_html(contents)
    assert "There is no earlier snapshot" in words(render_html(contents))
    assert "The first snapshot." in render_markdown(contents)


def test_a_trend_ends_with_this_build(images: ReportModel) -> None:
    """Eleven earlier values and this one, oldest first."""
    trend = metric_tables.get_metric_row(images, "map").trend
    assert len(trend) == 12
    assert trend[-1] == 0.7312
    assert trend == sorted(trend)


def test_all_parts_of_a_whole_build_are_there(page: str) -> None:
    """What came in, the gate, labels, confusions, cut-offs, the sweep, latency, stages, drift, provenance: each with its figures."""
    text = words(page)
    for explanation in (
        "items served 8,023 6,789 database, 1,234 query side", "added 321", "changed 5 same key, other content; 2 relabelled",
        "removed 17 8,000 kept as they were", "rejected 9 0.1% of all, −2 since", "damaged: 7", "and 6 more",
        "3 queries are nearly an item of the database. No figure counts such queries.", "1 group of equal items has more than one label.",
        "✓ yes minimum.ann_recall_at_10 0.969 0.950 ann_recall_at_10 is 0.9688, and must be at least 0.95",
        "0 90 400 0.950 0.900", "0 1 50 12%", "precision@k 0.870 0.840 0.811 0.784", "hit rate@k 0.870 0.952 0.971 0.993",
        "nprobe 8 0.950 80 µs ◉ chosen", "Of the time of one query, 99.4% is its encoding and 0.6% the search (medians).",
        "one search, p50 82 µs p95 0.12 ms, p99 0.20 ms", "a vector 5.1 kB of index files, 34.8 MB in all", "encode 3 min 22 s",
        "imbalance 1.280 1.310", "reused: changed 0.04, at most 0.3", "timm-resnet18-0123", "faiss-cpu 1.15.0",
        "The first two components hold 31% and 18% of the variance.", "kNN purity@10 0.812 , silhouette 0.143",
    ):  # fmt: skip
        assert explanation in text, explanation


def test_a_refused_build_says_why_first_and_a_forced_one_by_what_reason(images: ReportModel) -> None:
    """Every objection stands before the first figure; the reason given for force too."""
    refused, forced = made.refused(images), made.refused(images, "labels were cleaned on purpose")
    text = words(render_html(refused))
    assert text.index("✗ Refused") < text.index("map fell from 0.7812 to 0.7312") < text.index("at least 0.9") < text.index("Figures mAP")
    assert f"The snapshot {made.LIVE} stays live." in text
    text = words(render_html(forced))
    assert (
        text.index("! Published by force")
        < text.index("labels were cleaned on purpose")
        < text.index("map fell from")
        < text.index("Figures mAP")
    )
    assert "# photographs: ✗ refused" in render_markdown(refused)
    assert "# photographs: ! published by force" in render_markdown(forced)
    assert "Reason given: labels were cleaned on purpose" in render_markdown(forced)
    assert "✗ broken | `maximum_drop.map`" in render_markdown(refused)


def test_texts_and_graded_pairs(images: ReportModel) -> None:
    """Correlations by file, – where one is not defined; rejects of texts with their snippets; no page for labels."""
    text = words(render_html(made.of_texts()))
    assert "overall 0.823 0.831 8,628 sts-test 0.802 – 1,379" in text
    assert "empty_text: 3" in text
    assert "Relevance by label" not in text
    assert "Relevant is what a scored pair joins to the query" in text
    assert "A person number 7 is playing an instrument near the river." in text


def test_both_ways_between_texts_and_images(digits: Path) -> None:
    """A row a way: recall@1, @5, @10 and the median rank, which need not be whole."""
    text = words(render_html(made.of_captions(digits)))
    assert "text → image 0.330 0.410 0.510 3.000 image → text 0.330 0.410 0.510 4.500" in text
    assert "query by its caption" in text


def test_a_build_without_queries_says_so() -> None:
    """No plot, no figure, no empty section."""
    page = render_html(made.unmeasured())
    assert "Nothing was held out as queries, so nothing was measured." in words(page)
    assert "<svg" not in page
    assert 'id="queries"' not in page
    assert "Nothing was measured." in render_markdown(made.unmeasured())


def test_every_measure_has_a_meaning_and_a_denominator(images: ReportModel) -> None:
    """Each name in metrics.json is explained; each mean says over what."""
    for name in images.build_metrics.metrics:
        assert meaning(name).explanation, name
        assert re.search(r"\d", over(images, name)), name
    assert meaning("precision_at_10").label == "precision@10"
    assert not meaning("ann_share_below_half_at_10").higher_is_better
    assert meaning("map_at_10").explanation != meaning("map").explanation
    assert meaning("new_measure").label == "new_measure"
    assert len({pattern for pattern, *_ in METRIC_DEFINITIONS}) == len(METRIC_DEFINITIONS)
