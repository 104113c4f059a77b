"""Normalize texts for encoding and for grouping."""

from __future__ import annotations

import re
import unicodedata

# Po (other punctuation) that changes what a text says: C and C#, 5 and 5 %, R&D, a/b.
SIGNS = frozenset("#%&*@/\\§‰‱٪\u2032\u2033\u2034")
JOINER = "\u200d"  # makes one emoji of several
VARIATION_SELECTORS = frozenset("\ufe0e\ufe0f")  # an emoji in color or in black
BRACKETS = "()[]{}"

# Marks that separate or end parts of a sentence, and are part of a word or a number in these places only.
KEPT_MARKS = re.compile(
    r"(?P<kept>(?<!\w)[:;=]-?[()\[\]dpo/\\|3*](?!\w)"  # emoticons, in lower case
    r"|(?<=\d)[.,:-](?=\d)"  # 1.5, 1,5, 12:30
    r"|(?<![\w)\]])-(?=[.,]?\d)"  # -5
    r"|(?<![\w.])\.(?=\w)"  # .5, .NET
    r"|!(?==)|(?<!\w)!(?=\w)|:(?==)"  # !=, !x, :=
    r"|-(?=[<>=+|])|(?<=[<>=+|])-|(?<=\w)--(?![\w-])"  # ->, i--
    r"|(?<=[^\W_])_+(?=[^\W_])|(?<=[^\W_])__+|__+(?=[^\W_])"  # snake_case, __init__
    r"|\(\)|\[\]|\{\})"  # int[]
    r"|[-.,:;!_()\[\]{}]"
)
DECOMPOSED_NUMBERS = re.compile("[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u207e\u2150-\u215f\u2189]")


def normalize_text(text: str) -> str:
    """Return the text that is digested and encoded: Unicode NFC, single spaces, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_for_grouping(text: str) -> str:
    """Remove differences in case, sentence punctuation, character encoding and spacing. Equal results form one group.

    Letters, their marks (vowel signs, accents), numbers and symbols stay in every script. Quotes, brackets, dashes and stops
    go, except where they are part of a number, a word or an operator: `-5`, `1.5`, `.NET`, `a->b`, `snake_case`, `:)`.
    """
    text = DECOMPOSED_NUMBERS.sub(_separate_number, text)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = KEPT_MARKS.sub(lambda match: match["kept"] or " ", text.translate(_REPLACEMENTS))
    return " ".join(text.split())


def _separate_number(match: re.Match[str]) -> str:
    """Keep superscripts and fractions apart from the digits before them: NFKC would make 102 of 10² and 11/2 of 1½."""
    return ("^" if unicodedata.decomposition(match[0]).startswith("<super>") else " ") + match[0]


class _Replacements(dict[int, str]):
    """Maps a character to what stands for it before marks are looked at. Filled on demand."""

    def __missing__(self, code: int) -> str:
        self[code] = replacement = _replace_character(chr(code))
        return replacement


def _replace_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in VARIATION_SELECTORS:
        return ""
    if character == "\u2212" or category == "Pd":
        return "-"
    if category == "Cf":  # invisible; tags make the flags of regions
        return character if character == JOINER or "\U000e0020" <= character <= "\U000e007f" else ""
    if character in SIGNS or character in BRACKETS or character in ".,:;!_":
        return character
    return " " if category[0] in "PZ" or category == "Cc" or character in "`\u00b4" else character


_REPLACEMENTS = _Replacements()
