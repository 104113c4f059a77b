"""Normalize texts for encoding and for grouping."""

from __future__ import annotations

import re
import unicodedata


def normalize_text(text: str) -> str:
    """Return the text that is digested and encoded: Unicode NFC, single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_for_grouping(text: str) -> str:
    """Remove differences in case, punctuation, accent encoding and spacing. Equal results form one group."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()
