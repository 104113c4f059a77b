"""Plots, scatter plots and sparklines are well-formed SVG with the right shapes."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from indexmill.tasks.reports import plots, svg
from indexmill.tasks.reports.svg import make_sparkline
from tests.reports import report_models


def test_ten_labels_have_colors_and_the_rest_is_gray() -> None:
    """The most frequent first, ties by name; rare labels and none share the last code."""
    labels = ["b", "a", "b", None, *(f"rare {at:02d}" for at in range(20)), "a"]
    legend = svg.build_legend(labels)
    assert legend.names[:3] == ["a", "b", "rare 00"]
    assert legend.codes[:4] == [1, 0, 1, 10]
    assert legend.entries[-1] == (svg.OTHER_LABELS, svg.OTHER_COLOR, 13)
    assert sum(count for _, _, count in legend.entries) == len(labels)
    assert len(set(legend.colors)) == 11


def test_a_sample_without_labels_has_one_color() -> None:
    """Its legend entry is “items”, not “other labels”."""
    assert svg.build_legend([None, None]).entries == [("items", svg.LABEL_COLORS[0], 2)]
    assert svg.plot_2d({}, svg.build_legend([])) == []
    assert svg.plot_3d({}, svg.build_legend([])) == {}


def test_dots_keep_their_aspect_ratio_within_the_plot() -> None:
    """A square stays a centered square, y upwards, with one dot per point."""
    (code, path), *rest = svg.make_dot_paths([[0, 0], [0, 2], [2, 2], [2, 0]], [0, 0, 0, 0])
    assert (code, rest) == (0, [])
    positions = [tuple(map(float, match)) for match in re.findall(r"M([\d.]+) ([\d.]+)h0", path)]
    assert positions == [(60.0, 370.0), (60.0, 10.0), (420.0, 10.0), (420.0, 370.0)]
    assert svg.make_dot_paths([[1, 1], [1, 1]], [0, 1]) == [(1, "M240.0 190.0h0"), (0, "M240.0 190.0h0")]


def test_3d_points_are_centered_in_the_unit_ball() -> None:
    """The farthest point is at distance 1, and each point has the code of its own row."""
    sample = report_models.make_space(["a", "b", "c"])
    plot = svg.plot_3d(sample, svg.build_legend(sample["labels"]))
    assert [(cloud["name"], len(cloud["points"])) for cloud in plot["clouds"]] == [("Principal components", 300), ("t-SNE", 240)]
    for cloud in plot["clouds"]:
        assert max(sum(value**2 for value in point) for point in cloud["points"]) == pytest.approx(1, abs=1e-3)
        assert [sum(point[axis] for point in cloud["points"]) for axis in range(3)] == pytest.approx([0, 0, 0], abs=0.05)
        assert len(cloud["codes"]) == len(cloud["points"])
    rows = sample["tsne"][1]["rows"]
    assert [plot["names"][code] for code in plot["clouds"][1]["codes"]] == [sample["labels"][row] for row in rows]


def test_plots_are_named_svg_in_the_text_color_of_the_page() -> None:
    """Well-formed SVG without URLs, with text as text."""
    svg_texts = (
        plots.plot_cutoffs(report_models.METRICS, report_models.KS),
        plots.plot_precision_recall([0, 0.5, 1], [1, 0.6, 0.2]),
        plots.plot_recall_vs_speed(report_models.make_report_data([report_models.make_item(1, "a")], ["a"])["sweep"]),
    )
    for text in svg_texts:
        root = ElementTree.fromstring(text)
        assert root.get("aria-label")
        assert "currentColor" in text
        assert plots.TEXT_COLOR_PLACEHOLDER not in text
        assert "metadata" not in text
    assert ">ANN recall<" in svg_texts[0]
    assert ">chosen<" in svg_texts[2]


def test_a_sparkline_follows_its_values() -> None:
    """From left to right, minimum at the bottom, maximum at the top; constant values are in the middle."""
    line = re.search(r'points="([^"]+)"', make_sparkline([0.1, 0.3, 0.2]))
    assert line is not None
    assert line[1] == "4.0,22.0 55.0,4.0 106.0,13.0"
    assert "13.0" in make_sparkline([0.5, 0.5])
    assert make_sparkline([0.5]) == ""
