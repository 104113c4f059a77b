"""Texts, by the text tower of a CLIP model that is loaded for its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import open_clip
import torch

from indexmill.configs.encoders import OpenClipEncoder
from indexmill.storage.errors import InputError
from indexmill.storage.records import Modality
from indexmill.tasks.encoders.encoding import Encoded
from indexmill.tasks.encoders.forward import by_length, finished, moved

DEFAULT_BATCH = 64
WINDOW = 1024

Tokenizer = Callable[..., torch.Tensor]


class OpenClipTexts:
    """The texts of a CLIP model, cut at the model's own number of tokens."""

    modality: Modality = "text"
    wants: tuple[int, int] | None = None

    def __init__(self, name: str, model: Any, dim: int, config: OpenClipEncoder) -> None:
        self._name, self._model, self._normalize = name, model, config.normalize
        self.dim = dim
        self.batch_size = DEFAULT_BATCH if config.batch_size == "auto" else config.batch_size
        self.window = max(WINDOW, self.batch_size)

    def prepare(self, item: str) -> str:
        """The text itself: `encode` cuts it into tokens."""
        return item

    def encode(self, prepared: Sequence[str], batch_size: int) -> Encoded:
        """float32 (n, dim) for n texts, in the space of the images."""
        tokens = self._tokenizer(list(prepared))
        vectors = np.empty((len(prepared), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in by_length(_ends(tokens).tolist(), batch_size):
                vectors[batch] = finished(text_features(self._model, moved(tokens[batch])), normalize=self._normalize)
        return Encoded(vectors, _truncated(self._tokenizer, prepared, tokens))

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        # Not needed for images; some come from the hub.
        try:
            return open_clip.get_tokenizer(self._name)
        except (OSError, ValueError, ImportError) as problem:
            raise InputError(
                "the model's tokenizer cannot be loaded",
                where=f"encoder.model = {self._name}",
                got=" ".join(str(problem).split())[:300],
                next_step="look at the network, or name a folder with the tokenizer's files as encoder.model: local-dir:PATH",
            ) from None


def text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What `model.encode_text` gives for int64 (n, length) tokens: (n, dim).

    In CLIP's own text tower no token sees those after it, and the vector is read off at the end-of-text token. So the columns after the
    last of those change nothing, and are left out: captions are short, and the full length is 77.
    """
    if type(model) is not open_clip.model.CLIP or model.text_pool_type != "argmax" or model.attn_mask is None:
        return model.encode_text(tokens)
    ends = _ends(tokens)
    tokens = tokens[:, : int(ends.max()) + 1]
    length, dtype = tokens.shape[1], model.transformer.get_cast_dtype()
    states = model.token_embedding(tokens).to(dtype) + model.positional_embedding[:length].to(dtype)
    states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
    states = model.ln_final(states[torch.arange(len(tokens), device=tokens.device), ends])
    projection = model.text_projection
    if projection is None:
        return states
    return projection(states) if isinstance(projection, torch.nn.Linear) else states @ projection


def _ends(tokens: torch.Tensor) -> torch.Tensor:
    """Where each text ends: CLIP's end-of-text token has the greatest number of all."""
    return tokens.argmax(dim=1)


def _truncated(tokenizer: Tokenizer, texts: Sequence[str], tokens: torch.Tensor) -> np.ndarray:
    """bool (n,): whose tokens go on past the model's length, of which the library says nothing.

    Only texts that fill all but the last place can be; they are cut again with room for one token more, which then changes them.
    """
    cut = np.zeros(len(texts), dtype=bool)
    padding = tokenizer([""])[0]
    suspects = np.flatnonzero((tokens[:, -2] != padding[-2]).numpy()).tolist()
    if suspects:
        longer = tokenizer([texts[place] for place in suspects], context_length=tokens.shape[1] + 1)
        cut[suspects] = ((longer[:, :-1] != tokens[suspects]).any(dim=1) | (longer[:, -1] != padding[-1])).numpy()
    return cut
