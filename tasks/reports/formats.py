"""Numbers and strings as people read them. The templates know these functions as filters."""

from __future__ import annotations

import math

MINUS = "\u2212"
MISSING = "\u2013"
ROUNDS_TO_ZERO = "±0"  # a difference that does not show in three decimals
DEFAULT_CLIP_LENGTH = 240


def count(value: float | None) -> str:
    """A whole number with its thousands set apart."""
    return MISSING if _is_missing(value) else f"{value:,.0f}".replace("-", MINUS)


def figure(value: float | None) -> str:
    """Three decimals below ten, else one; whole numbers of a thousand and more as counts."""
    if value is None or _is_missing(value):
        return MISSING
    size = abs(value)
    text = f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"
    return text.replace("-", MINUS)


def signed(value: float | None) -> str:
    """As `figure`, with its sign even when it is positive; what rounds to nothing is ±0."""
    if value is None or _is_missing(value):
        return MISSING
    text = figure(abs(value))
    return ROUNDS_TO_ZERO if not text.strip("0.,") else (MINUS if value < 0 else "+") + text


def several(value: int, one: str, more: str) -> str:
    """The number with the word for one or for more."""
    return f"{count(value)} {one if value == 1 else more}"


def signed_count(value: int | None) -> str:
    """A whole number with its sign."""
    return MISSING if value is None else ROUNDS_TO_ZERO if not value else f"{value:+,}".replace("-", MINUS)


def share(value: float | None) -> str:
    """A share as a percentage, with one decimal in the first and the last tenth."""
    if value is None or _is_missing(value):
        return MISSING
    return f"{value:.0%}" if value in (0, 1) or 0.1 <= value <= 0.9 else f"{value:.1%}"


def probability(value: float | None) -> str:
    """A p-value, which a resampling test cannot tell to more than a thousandth."""
    return "p not known" if value is None else "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def milliseconds(value: float | None) -> str:
    """Milliseconds in the unit that suits them."""
    if value is None or _is_missing(value):
        return MISSING
    if value < 0.1:
        return f"{value * 1000:.0f} µs" if value >= 0.01 else f"{value * 1000:.1f} µs"
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else seconds(value / 1000)


def seconds(value: float | None) -> str:
    """Seconds, minutes or hours."""
    if value is None or _is_missing(value):
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    minutes, hours = divmod(round(value), 60), divmod(round(value / 60), 60)
    return f"{minutes[0]} min {minutes[1]:02d} s" if value < 3600 else f"{hours[0]} h {hours[1]:02d} min"


def size(value: float | None) -> str:
    """Bytes in decimal units."""
    if value is None or _is_missing(value):
        return MISSING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" or value >= 100 else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def clip(text: object, most: int = DEFAULT_CLIP_LENGTH) -> str:
    """The text on one line, cut at `most` characters."""
    words = " ".join(str("" if text is None else text)[: most * 4].split())
    return words if len(words) <= most else words[: most - 1] + "…"


def clip_lines(text: str, most: int = 60_000) -> str:
    """The text with its lines, cut at `most` characters."""
    return text if len(text) <= most else text[:most] + "\n…"


def _is_missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
