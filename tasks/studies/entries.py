"""Which indexes a study compares, and with which settings each is searched."""

from __future__ import annotations

import math

from indexmill.configs.models import StudiedIndex, StudyConfig

TARGETS = (0.9, 0.95, 0.99)  # that `auto` is tuned for
POINTS_PER_LIST = 39  # FAISS warns of lists trained on fewer
CENTROIDS = 256  # of a product quantizer with 8 bits
PQ_FROM = POINTS_PER_LIST * CENTROIDS
WIDTHS = 8  # settings of one index, at most
NARROWEST = {"nprobe": 1, "ef_search": 16}
WIDEST = 512  # by default


def entries(config: StudyConfig, items: int, dim: int) -> tuple[StudiedIndex, ...]:
    """The config's own indexes, or the usual ones for so many vectors of `dim` numbers.

    IVF has √n lists and the tutorials' 4√n, as far as there are 39 vectors a list; PQ has a byte for about 8 numbers, and is
    there where each of its 256 centroids has 39 vectors too.
    """
    if config.indexes:
        return config.indexes
    lists = sorted({max(1, min(times * math.isqrt(items), items // POINTS_PER_LIST)) for times in (1, 4)})
    factories = ["Flat", *(f"IVF{count},Flat" for count in lists)]
    if items >= PQ_FROM:
        factories.append(f"IVF{lists[-1]},PQ{pieces(dim)}")
    return tuple(StudiedIndex(factory=factory) for factory in (*factories, "HNSW32", "auto"))


def pieces(dim: int) -> int:
    """The largest divisor of `dim` that gives a byte at least 8 numbers; 1 for a prime."""
    return max(count for count in range(1, max(1, dim // 8) + 1) if dim % count == 0)


def targets(entry: StudiedIndex) -> tuple[float, ...]:
    """The recall@10 that an index is tuned for, one row each; none where it is searched at given or doubling widths."""
    if entry.recall_targets or entry.factory != "auto" or entry.nprobe or entry.ef_search:
        return entry.recall_targets
    return TARGETS


def widths(entry: StudiedIndex, dial: str, widest: int) -> tuple[int, ...]:
    """The values of `dial` (nprobe or ef_search) to search with: the entry's own, or doubling ones; each once, none above `widest`."""
    given: tuple[int, ...] = {"nprobe": entry.nprobe, "ef_search": entry.ef_search}[dial]
    narrowest = NARROWEST[dial]
    doubling = (narrowest << step for step in range(WIDTHS))
    chosen = given or (*(width for width in doubling if width < min(widest, WIDEST)), min(widest, narrowest << (WIDTHS - 1), WIDEST))
    return tuple(sorted({min(width, widest) for width in chosen}))
