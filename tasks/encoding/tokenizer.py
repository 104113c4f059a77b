"""Load a text encoder's own tokenizer, and how many tokens the encoder sees, without importing torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexmill.configs.encoders import EncoderConfig, SentenceTransformersEncoderConfig
from indexmill.storage.errors import InputError
from indexmill.tasks.encoding.model_files import find_sentence_transformer_folder
from indexmill.tasks.encoding.prompts import resolve_prompts

MAX_CONTEXT = 1_000_000  # tokenizers without a limit name a far larger number


@dataclass(frozen=True)
class DocumentTokenizer:
    """The tokenizer of an encoder's documents.

    Attributes:
        tokenizer: A `tokenizers.Tokenizer` that neither truncates nor pads.
        context: The most tokens that the encoder sees; None if it sees any number.
        overhead: Tokens of every text besides its own: special ones and the document prompt.
    """

    tokenizer: Any
    context: int | None
    overhead: int

    def count_tokens(self, texts: list[str]) -> list[int]:
        """Count the tokens of each text, with the overhead."""
        return [len(encoding.ids) + self.overhead for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]


def load_document_tokenizer(config: EncoderConfig) -> DocumentTokenizer:
    """Load the tokenizer with which an encoder reads documents.

    Raises:
        InputError: The encoder has no fast tokenizer, which knows where in the text each token is.
    """
    from tokenizers import Tokenizer  # imported here: most builds do not need it

    if not isinstance(config, SentenceTransformersEncoderConfig):
        raise _build_error(config, f"encoder.kind = {config.kind}")
    folder = _find_document_module(find_sentence_transformer_folder(config.model))
    if not (folder / "tokenizer.json").is_file():
        raise _build_error(config, "no tokenizer.json in the model's folder")
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    prompt_tokens = len(tokenizer.encode(resolve_prompts(config)["document"], add_special_tokens=False).ids)
    return DocumentTokenizer(tokenizer, _read_context(folder), tokenizer.num_special_tokens_to_add(is_pair=False) + prompt_tokens)


def _find_document_module(folder: Path) -> Path:
    """Return the folder of the module that tokenizes documents: the first one, or a router's first one for documents."""
    modules = _read_json(folder / "modules.json", [])
    module_folder = folder / (modules[0].get("path") or "") if modules else folder
    router = _read_json(module_folder / "router_config.json", {})
    routes = router.get("structure", {}).get("document")
    return module_folder / routes[0] if routes else module_folder


def _read_context(folder: Path) -> int | None:
    """Read the limit as sentence-transformers does: its own, or the tokenizer's, which the model's positions cap."""
    own = _read_json(folder / "sentence_bert_config.json", {})
    limits = [own.get("document_length")]
    if own.get("max_seq_length"):
        limits.append(own["max_seq_length"])
    else:
        limits.append(_read_json(folder / "tokenizer_config.json", {}).get("model_max_length"))
        limits.append(_read_json(folder / "config.json", {}).get("max_position_embeddings"))
    return min((int(limit) for limit in limits if limit and 0 < limit < MAX_CONTEXT), default=None)


def _build_error(config: EncoderConfig, got: str) -> InputError:
    return InputError(
        "the encoder has no tokenizer that texts can be divided with",
        where=f"encoder.model = {config.model}",
        expected="a sentence-transformers model with a fast tokenizer (tokenizer.json)",
        got=got,
        next_step="remove dataset.chunk, or choose another encoder",
    )


def _read_json(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default
