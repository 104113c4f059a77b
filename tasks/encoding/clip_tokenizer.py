"""Tokenize texts as open_clip's `SimpleTokenizer` does, without importing torch.

open_clip's own module imports torch, and the fast tokenizer of transformers differs on HTML entities, broken encodings and some
letters. So texts are cleaned and divided into words by the same libraries as there, and only the words are left to a fast
tokenizer."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

import ftfy
import regex

START, END = "<start_of_text>", "<end_of_text>"
PADDING: dict[str, Any] = {"pad_id": 0, "pad_token": "!"}
WORD_PATTERN = START + "|" + END + r"""|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""

_find_words = regex.compile(WORD_PATTERN, regex.IGNORECASE).findall


def split_words(text: str) -> list[str]:
    """Clean a text and divide it into words and punctuation, all in lower case."""
    cleaned = html.unescape(html.unescape(ftfy.fix_text(text)))
    words: list[str] = _find_words(" ".join(cleaned.split()).lower())
    return words


def build_clip_tokenizer(vocabulary: Mapping[str, int], merges: Iterable[tuple[str, str]], context: int, *, pads_to_context: bool) -> Any:
    """Build the tokenizer of the words that `split_words` returns.

    Args:
        vocabulary: Token -> id.
        merges: Pairs of tokens, those merged first at the beginning.
        context: The most tokens of a text, with the two that mark its start and end.
        pads_to_context: Whether every text is padded to that many tokens, or to the longest text of a batch.

    Returns:
        A `tokenizers.Tokenizer`, to be called with `is_pretokenized=True`.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    tokenizer: Any = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges), end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (START, END)])
    special_tokens = [(token, vocabulary[token]) for token in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=special_tokens)
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(**PADDING, length=context if pads_to_context else None)
    return tokenizer
