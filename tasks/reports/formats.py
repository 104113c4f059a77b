"""Format numbers and texts for people. The templates use these functions as filters (`FILTERS`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

MINUS = "\u2212"
MISSING = "\u2013"
ROUNDS_TO_ZERO = "±0"  # a difference too small to show
DEFAULT_CLIP_LENGTH = 240
MAX_CONFIG_LENGTH = 60_000


def format_count(value: float | None) -> str:
    """Format a whole number with thousands separators."""
    return MISSING if _is_missing(value) else f"{value:,.0f}".replace("-", MINUS)


def format_number(value: float | None) -> str:
    """Format with three decimals below ten, one below a thousand, and none above."""
    if value is None or _is_missing(value):
        return MISSING
    size = abs(value)
    text = f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"
    return text.replace("-", MINUS)


def format_signed(value: float | None) -> str:
    """Format like `format_number`, always with a sign; ±0 for what rounds to zero."""
    if value is None or _is_missing(value):
        return MISSING
    text = format_number(abs(value))
    return ROUNDS_TO_ZERO if not text.strip("0.,") else (MINUS if value < 0 else "+") + text


def format_signed_count(value: int | None) -> str:
    """Format a whole number with its sign."""
    return MISSING if value is None else ROUNDS_TO_ZERO if not value else f"{value:+,}".replace("-", MINUS)


def pluralize(value: int, singular: str, plural: str) -> str:
    """Format a count with the singular or plural noun."""
    return f"{format_count(value)} {singular if value == 1 else plural}"


def format_percent(value: float | None) -> str:
    """Format a fraction as a percentage, with one decimal below 10% and above 90%."""
    if value is None or _is_missing(value):
        return MISSING
    return f"{value:.0%}" if value in (0, 1) or 0.1 <= value <= 0.9 else f"{value:.1%}"


def format_p_value(value: float | None) -> str:
    """Format a p-value; the resampling test resolves no less than a thousandth."""
    return "p unknown" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def format_milliseconds(value: float | None) -> str:
    """Format milliseconds as µs, ms, or seconds and above."""
    if value is None or _is_missing(value):
        return MISSING
    if value < 0.1:
        return f"{value * 1000:.0f} µs" if value >= 0.01 else f"{value * 1000:.1f} µs"
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else format_seconds(value / 1000)


def format_seconds(value: float | None) -> str:
    """Format seconds as seconds, minutes or hours."""
    if value is None or _is_missing(value):
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    minutes, hours = divmod(round(value), 60), divmod(round(value / 60), 60)
    return f"{minutes[0]} min {minutes[1]:02d} s" if value < 3600 else f"{hours[0]} h {hours[1]:02d} min"


def format_bytes(value: float | None) -> str:
    """Format bytes in decimal units."""
    if value is None or _is_missing(value):
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" or value >= 100 else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def clip(text: object, max_length: int = DEFAULT_CLIP_LENGTH) -> str:
    """Put a text on one line of at most `max_length` characters."""
    line = " ".join(str("" if text is None else text)[: max_length * 4].split())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def clip_lines(text: str, max_length: int = MAX_CONFIG_LENGTH) -> str:
    """Cut a text at `max_length` characters, keeping its lines."""
    return text if len(text) <= max_length else text[:max_length] + "\n…"


def _is_missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


FILTERS: Mapping[str, Callable[..., str]] = {
    "count": format_count,
    "number": format_number,
    "signed": format_signed,
    "signed_count": format_signed_count,
    "plural": pluralize,
    "percent": format_percent,
    "milliseconds": format_milliseconds,
    "seconds": format_seconds,
    "bytes": format_bytes,
    "clip": clip,
}
