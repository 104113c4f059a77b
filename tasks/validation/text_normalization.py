"""Normalize texts for encoding and for grouping."""

from __future__ import annotations

import re
import unicodedata


def normalize_for_grouping(text: str) -> str:
    """The text with case, punctuation, accents' spelling and spacing evened out: texts that only differ there are one group."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def normalize_text(text: str) -> str:
    """The text that is digested and encoded: Unicode NFC, runs of white space as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())
