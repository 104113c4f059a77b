"""Numbers and texts are formatted for people."""

# ruff: noqa: RUF001  # the minus sign and the dash are what the report prints
from __future__ import annotations

import pytest

from indexmill.tasks.reports import formats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.format_number(0.12345), "0.123"),
        (formats.format_number(-0.5), "−0.500"),
        (formats.format_number(12.34), "12.3"),
        (formats.format_number(8023), "8,023"),
        (formats.format_number(None), "–"),
        (formats.format_number(float("nan")), "–"),
        (formats.format_count(1234567), "1,234,567"),
        (formats.format_count(None), "–"),
        (formats.format_signed(0.0125), "+0.013"),
        (formats.format_signed(-0.3), "−0.300"),
        (formats.format_signed(-0.0004), "±0"),
        (formats.format_signed(0.0), "±0"),
        (formats.format_signed_count(-2), "−2"),
        (formats.format_signed_count(1200), "+1,200"),
        (formats.format_signed_count(0), "±0"),
        (formats.format_percent(0.994), "99.4%"),
        (formats.format_percent(0.006), "0.6%"),
        (formats.format_percent(0.5), "50%"),
        (formats.format_percent(1.0), "100%"),
        (formats.format_p_value(0.0004), "p < 0.001"),
        (formats.format_p_value(0.25), "p = 0.250"),
        (formats.format_p_value(None), "p unknown"),
        (formats.format_milliseconds(0.0042), "4.2 µs"),
        (formats.format_milliseconds(0.0821), "82 µs"),
        (formats.format_milliseconds(0.2), "0.20 ms"),
        (formats.format_milliseconds(41.2), "41 ms"),
        (formats.format_milliseconds(12_345), "12.3 s"),
        (formats.format_seconds(59.94), "59.9 s"),
        (formats.format_seconds(201.7), "3 min 22 s"),
        (formats.format_seconds(3599), "59 min 59 s"),
        (formats.format_seconds(7380), "2 h 03 min"),
        (formats.format_bytes(32), "32 B"),
        (formats.format_bytes(5128), "5.1 kB"),
        (formats.format_bytes(34_813_992), "34.8 MB"),
        (formats.format_bytes(2.5e12), "2.5 TB"),
        (formats.clip("a\n b\tc", 10), "a b c"),
        (formats.clip("abcdef", 4), "abc…"),
        (formats.clip(None), ""),
        (formats.pluralize(1, "item", "items"), "1 item"),
        (formats.pluralize(2000, "item", "items"), "2,000 items"),
    ],
)
def test_numbers_and_texts_are_formatted(text: str, expected: str) -> None:
    """Units, signs, thousands separators, missing values."""
    assert text == expected
