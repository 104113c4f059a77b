"""Choose the indexes of a study and the search parameters for each."""

from __future__ import annotations

import math

from indexmill.configs.models import StudyConfig, StudyIndexConfig

DEFAULT_RECALL_TARGETS = (0.9, 0.95, 0.99)  # that `auto` is tuned for
MIN_POINTS_PER_CENTROID = 39  # FAISS warns of lists trained on fewer
PQ_CENTROIDS = 256  # of a product quantizer with 8 bits
PQ_MIN_ITEMS = MIN_POINTS_PER_CENTROID * PQ_CENTROIDS
MAX_WIDTHS = 8  # settings of one index, at most
MIN_WIDTH = {"nprobe": 1, "ef_search": 16}
MAX_WIDTH = 512  # by default


def plan_indexes(config: StudyConfig, items: int, dim: int) -> tuple[StudyIndexConfig, ...]:
    """The config's own indexes, or the usual ones for so many vectors of `dim` numbers.

    IVF has √n lists and the tutorials' 4√n, as far as there are 39 vectors a list; PQ has a byte for about 8 numbers, and is
    there where each of its 256 centroids has 39 vectors too.
    """
    if config.indexes:
        return config.indexes
    lists = sorted({max(1, min(times * math.isqrt(items), items // MIN_POINTS_PER_CENTROID)) for times in (1, 4)})
    factories = ["Flat", *(f"IVF{count},Flat" for count in lists)]
    if items >= PQ_MIN_ITEMS:
        factories.append(f"IVF{lists[-1]},PQ{choose_subquantizers(dim)}")
    return tuple(StudyIndexConfig(factory=factory) for factory in (*factories, "HNSW32", "auto"))


def choose_subquantizers(dim: int) -> int:
    """The largest divisor of `dim` that gives a byte at least 8 numbers; 1 for a prime."""
    return max(count for count in range(1, max(1, dim // 8) + 1) if dim % count == 0)


def get_recall_targets(entry: StudyIndexConfig) -> tuple[float, ...]:
    """The recall@10 that an index is tuned for, one row each; none where it is searched at given or doubling widths."""
    if entry.recall_targets or entry.factory != "auto" or entry.nprobe or entry.ef_search:
        return entry.recall_targets
    return DEFAULT_RECALL_TARGETS


def plan_widths(entry: StudyIndexConfig, search_param: str, max_width: int) -> tuple[int, ...]:
    """The values of `search_param` (nprobe or ef_search) to search with: the entry's own, or doubling ones; each once, none above `max_width`."""
    given: tuple[int, ...] = {"nprobe": entry.nprobe, "ef_search": entry.ef_search}[search_param]
    narrowest = MIN_WIDTH[search_param]
    doubling = (narrowest << step for step in range(MAX_WIDTHS))
    chosen = given or (
        *(width for width in doubling if width < min(max_width, MAX_WIDTH)),
        min(max_width, narrowest << (MAX_WIDTHS - 1), MAX_WIDTH),
    )
    return tuple(sorted({min(width, max_width) for width in chosen}))
