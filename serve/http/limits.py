"""Limits of the service; a request above a limit is rejected at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Most bytes of a body and of all bodies at once, pixels of an image, results and queries of a request, letters of a text, seconds
    of a request, requests at once; queries that share one call of the encoder or of FAISS; and threads that search.
    """

    body_bytes: int = 32 << 20
    total_body_bytes: int = 256 << 20
    pixels: int = 40_000_000
    k: int = 1000
    batch: int = 1024
    images: int = 32
    text_length: int = 20_000
    seconds: float = 30
    concurrency: int = 256
    max_encode_batch: int = 64
    max_search_batch: int = 1024
    search_threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
