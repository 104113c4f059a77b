"""Limits of the service; a request above a limit is rejected at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Limits:
    """Limits per request, limits over all requests at once, and the sizes of shared batches."""

    # One request.
    max_body_bytes: int = 32 << 20
    max_pixels: int = 40_000_000  # of one image
    max_k: int = 1000
    max_queries: int = 1024
    max_images: int = 32
    max_text_length: int = 20_000  # characters
    timeout_seconds: float = 30
    # All requests that are being answered.
    max_total_body_bytes: int = 256 << 20
    max_concurrent_searches: int = 256
    # Queries that share one call of the encoder or of FAISS.
    max_encode_batch: int = 64
    max_search_batch: int = 1024
    search_threads: int = field(default_factory=lambda: min(os.cpu_count() or 1, 8))
