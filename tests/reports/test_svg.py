"""Numbers as people read them, and what is drawn of them."""

# ruff: noqa: RUF001  # the minus sign and the dash are what the report prints
from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from indexmill.tasks.reports import formats, plots, svg
from indexmill.tasks.reports.svg import sparkline
from tests.reports import made


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (formats.figure(0.12345), "0.123"), (formats.figure(-0.5), "−0.500"), (formats.figure(12.34), "12.3"),
        (formats.figure(8023), "8,023"),
        (formats.figure(None), "–"), (formats.figure(float("nan")), "–"), (formats.count(1234567), "1,234,567"), (formats.count(None), "–"),
        (formats.signed(0.0125), "+0.013"), (formats.signed(-0.3), "−0.300"), (formats.signed(-0.0004), "±0"), (formats.signed(0.0), "±0"),
        (formats.signed_count(-2), "−2"), (formats.signed_count(1200), "+1,200"), (formats.signed_count(0), "±0"),
        (formats.share(0.994), "99.4%"), (formats.share(0.006), "0.6%"), (formats.share(0.5), "50%"), (formats.share(1.0), "100%"),
        (formats.probability(0.0004), "p < 0.001"), (formats.probability(0.25), "p = 0.250"), (formats.probability(None), "p not known"),
        (formats.milliseconds(0.0042), "4.2 µs"), (formats.milliseconds(0.0821), "82 µs"), (formats.milliseconds(0.2), "0.20 ms"),
        (formats.milliseconds(41.2), "41 ms"), (formats.milliseconds(12_345), "12.3 s"), (formats.seconds(59.94), "59.9 s"),
        (formats.seconds(201.7), "3 min 22 s"), (formats.seconds(3599), "59 min 59 s"), (formats.seconds(7380), "2 h 03 min"),
        (formats.size(32), "32 B"), (formats.size(5128), "5.1 kB"), (formats.size(34_813_992), "34.8 MB"), (formats.size(2.5e12), "2.5 TB"),
        (formats.clip("a\n b\tc", 10), "a b c"), (formats.clip("abcdef", 4), "abc…"), (formats.clip(None), ""),
        (formats.several(1, "item", "items"), "1 item"), (formats.several(2000, "item", "items"), "2,000 items"),
    ],
)  # fmt: skip
def test_numbers_and_strings_are_said_so(said: str, expected: str) -> None:
    """Units, signs, thousands, what is missing."""
    assert said == expected


def test_ten_labels_have_colours_and_the_rest_is_grey() -> None:
    """The commonest first, equals by name; what has no label or a rare one shares the last code."""
    labels = ["b", "a", "b", None, *(f"rare {at:02d}" for at in range(20)), "a"]
    found = svg.build_legend(labels)
    assert found.names[:3] == ["a", "b", "rare 00"]
    assert found.codes[:4] == [1, 0, 1, 10]
    assert found.entries[-1] == (svg.OTHER_LABELS, svg.OTHER_COLOR, 13)
    assert sum(count for _, _, count in found.entries) == len(labels)
    assert len(set(found.colours)) == 11


def test_a_sample_without_labels_is_one_colour() -> None:
    """And is called items, not other labels."""
    assert svg.build_legend([None, None]).entries == [("items", svg.LABEL_COLORS[0], 2)]
    assert svg.plot_2d({}, svg.build_legend([])) == []
    assert svg.turning({}, svg.build_legend([])) == {}


def test_dots_keep_their_shape_within_the_picture() -> None:
    """A square stays a square in the middle, y upwards; one dot a point."""
    (code, path), *rest = svg.dots([[0, 0], [0, 2], [2, 2], [2, 0]], [0, 0, 0, 0])
    assert (code, rest) == (0, [])
    places = [tuple(map(float, place)) for place in re.findall(r"M([\d.]+) ([\d.]+)h0", path)]
    assert places == [(60.0, 370.0), (60.0, 10.0), (420.0, 10.0), (420.0, 370.0)]
    assert svg.dots([[1, 1], [1, 1]], [0, 1]) == [(1, "M240.0 190.0h0"), (0, "M240.0 190.0h0")]


def test_the_cloud_that_turns_lies_within_a_ball_round_its_middle() -> None:
    """Centred, the farthest point at distance 1, each with the code of its own row; t-SNE has fewer points than the sample."""
    sample = made.space(["a", "b", "c"])
    found = svg.turning(sample, svg.build_legend(sample["labels"]))
    assert [(cloud["name"], len(cloud["points"])) for cloud in found["clouds"]] == [("Principal components", 300), ("t-SNE", 240)]
    for cloud in found["clouds"]:
        assert max(sum(value**2 for value in point) for point in cloud["points"]) == pytest.approx(1, abs=1e-3)
        assert [sum(point[axis] for point in cloud["points"]) for axis in range(3)] == pytest.approx([0, 0, 0], abs=0.05)
        assert len(cloud["codes"]) == len(cloud["points"])
    rows = sample["tsne"][1]["rows"]
    assert [found["names"][code] for code in found["clouds"][1]["codes"]] == [sample["labels"][row] for row in rows]


def test_plots_are_drawings_with_names_in_the_pages_own_colour() -> None:
    """Well-formed SVG, without addresses, its letters text."""
    drawn = (
        plots.plot_cutoffs(made.METRICS, made.KS),
        plots.plot_precision_recall([0, 0.5, 1], [1, 0.6, 0.2]),
        plots.plot_recall_vs_speed(made.report_data([made.item(1, "a")], ["a"])["sweep"]),
    )
    for text in drawn:
        root = ElementTree.fromstring(text)
        assert root.get("aria-label")
        assert "currentColor" in text
        assert plots.INK_PLACEHOLDER not in text
        assert "metadata" not in text
    assert ">ANN recall<" in drawn[0]
    assert ">chosen<" in drawn[2]


def test_a_sparkline_rises_with_its_values() -> None:
    """From the left to the right and from the least at the bottom to the greatest on top; constant values lie in the middle."""
    line = re.search(r'points="([^"]+)"', sparkline([0.1, 0.3, 0.2]))
    assert line is not None
    assert line[1] == "4.0,22.0 55.0,4.0 106.0,13.0"
    assert "13.0" in sparkline([0.5, 0.5])
    assert sparkline([0.5]) == ""
