"""Choose the indexes of a study and the search parameters of each."""

from __future__ import annotations

import math

from indexmill.configs.models import IndexConfig, StudyConfig, StudyIndexConfig

DEFAULT_RECALL_TARGETS = (0.9, 0.95, 0.99)  # for `auto`
MIN_POINTS_PER_CENTROID = 39  # FAISS warns about lists trained on fewer
PQ_CENTROIDS = 256  # per subquantizer with 8 bits
PQ_MIN_ITEMS = MIN_POINTS_PER_CENTROID * PQ_CENTROIDS
MAX_WIDTHS = 8  # per index
MIN_WIDTH = {"nprobe": 1, "ef_search": 16}
MAX_WIDTH = 512  # unless the config names wider ones


def plan_indexes(config: StudyConfig, items: int, dim: int) -> tuple[StudyIndexConfig, ...]:
    """Return the indexes of the config, or the default ones for `items` vectors with `dim` dimensions.

    IVF has √n lists, and 4√n as in FAISS's guidelines, with at least 39 training vectors per list. PQ has one byte per 8 dimensions or
    more, and is included if each of its 256 centroids has 39 training vectors too.
    """
    if config.indexes:
        return config.indexes
    lists = sorted({max(1, min(factor * math.isqrt(items), items // MIN_POINTS_PER_CENTROID)) for factor in (1, 4)})
    factories = ["Flat", *(f"IVF{count},Flat" for count in lists)]
    if items >= PQ_MIN_ITEMS:
        factories.append(f"IVF{lists[-1]},PQ{choose_subquantizers(dim)}")
    return tuple(StudyIndexConfig(factory=factory) for factory in (*factories, "HNSW32", "auto"))


def choose_subquantizers(dim: int) -> int:
    """Return the largest divisor of `dim` that leaves at least 8 dimensions per subquantizer; 1 for a prime."""
    return max(count for count in range(1, max(1, dim // 8) + 1) if dim % count == 0)


def get_recall_targets(entry: StudyIndexConfig) -> tuple[float, ...]:
    """Return the recall@10 targets to tune an index for, one row each; none if it is searched at given or doubling widths."""
    if entry.recall_targets or entry.factory != "auto" or entry.nprobe or entry.ef_search:
        return entry.recall_targets
    return DEFAULT_RECALL_TARGETS


def plan_widths(entry: StudyIndexConfig, search_param: str, max_width: int) -> tuple[int, ...]:
    """Return the values of `search_param` (nprobe or ef_search) to search with: the entry's own, or doubling ones, up to `max_width`."""
    configured: tuple[int, ...] = {"nprobe": entry.nprobe, "ef_search": entry.ef_search}[search_param]
    if configured:
        return tuple(sorted({min(width, max_width) for width in configured}))
    doubling = [MIN_WIDTH[search_param] << step for step in range(MAX_WIDTHS)]
    widest = min(max_width, doubling[-1], MAX_WIDTH)
    return tuple(sorted({min(width, widest) for width in doubling}))


def make_index_config(config: IndexConfig, entry: StudyIndexConfig) -> IndexConfig:
    """Return the pipeline's index section with the factory and re-ranking of an entry of the study, and no search parameters."""
    return config.model_copy(
        update={
            "factory": entry.factory,
            "nprobe": None,
            "ef_search": None,
            "rerank_candidates": entry.rerank_candidates,
            "rerank": entry.rerank,
        }
    )
