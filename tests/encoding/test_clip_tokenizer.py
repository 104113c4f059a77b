"""CLIP's texts get the library's token ids without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.tasks.encoding.clip_tokenizer import build_clip_tokenizer, split_words
from tests.examples import count_examples

CONTEXT = 20
ODD_TEXTS = [
    "",
    " ",
    "a photo of a cat",
    "A Photo, of THE cat's owner!!! They'll've",
    "🙂 👩‍👩‍👧 🏳️‍🌈🇩🇪",
    "word " * 300,
    "supercalifragilisticexpialidocious" * 9,
    "&lt;b&gt; R&amp;amp;D &quot;x&quot; &#128512; &nbsp;",
    "sÃ£o paulo â€œquotesâ€\x9d",
    "日本語のテキスト مرحبا Ελλάδας ΣΊΣΥΦΟΣ İstanbul ǅ ﬁ ² ½ Ⅷ ١٢٣",
    "e\u0301 \u200b \ufeff \u00ad tab\tand\nline\r\x00",
    "<start_of_text> x <end_of_text>y <END_OF_TEXT> <|endoftext|>",
    "3.14159 12345 v2.0 a_b __init__ c++ #1 @you http://x.y/?q=1&r=%20",
    "don't 'S '\u00b4' `tis ''",
    "\ud7ff \U0001e4d0 \U00010d4a \ua7cb \U00016d40",
]


@pytest.fixture(scope="module")
def library() -> Any:
    return open_clip.SimpleTokenizer(context_length=CONTEXT)


@pytest.fixture(scope="module")
def tokenizer(library: Any) -> Any:
    return build_clip_tokenizer(library.encoder, library.bpe_ranks, CONTEXT, pads_to_context=True)


def encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch([split_words(text) for text in texts], is_pretokenized=True)]


def test_odd_texts_get_the_librarys_tokens(library: Any, tokenizer: Any) -> None:
    """Empty, long, in any script, emoji, HTML entities, broken encodings, special tokens, apostrophes, new letters."""
    for text, ours in zip(ODD_TEXTS, encode(tokenizer, ODD_TEXTS), strict=True):
        assert ours == library([text])[0].tolist(), text


@settings(max_examples=count_examples(300), deadline=None)
@given(st.text(max_size=40))
def test_any_text_gets_the_librarys_tokens(library: Any, tokenizer: Any, text: str) -> None:
    """Characters of all kinds."""
    assert encode(tokenizer, [text])[0] == library([text])[0].tolist()


def test_a_batch_is_padded_to_its_longest_text(library: Any) -> None:
    """Unless the model needs all positions. A truncated text is reported."""
    tokenizer = build_clip_tokenizer(library.encoder, library.bpe_ranks, CONTEXT, pads_to_context=False)
    assert [len(ids) for ids in encode(tokenizer, ["a cat", "a photo of a cat"])] == [7, 7]
    words = [split_words("word " * count) for count in (CONTEXT - 2, CONTEXT - 1)]
    assert [bool(encoding.overflowing) for encoding in tokenizer.encode_batch(words, is_pretokenized=True)] == [False, True]


def test_torch_is_not_imported() -> None:
    """Nor open_clip, which imports it."""
    program = (
        "import sys\nfrom indexmill.tasks.encoding.clip_tokenizer import split_words\n"
        "split_words('x')\nsys.exit(bool({'torch', 'open_clip'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
