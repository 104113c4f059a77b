"""Describe an index in the `index_infos.json` format of autofaiss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from indexmill.configs.models import IndexConfig


def build_index_infos(
    config: IndexConfig,
    paths: Sequence[str],
    *,
    size: int,
    vectors: int,
    dim: int,
    lists: int,
    timings: Mapping[str, float],
    baseline: Mapping[str, float],
) -> dict[str, Any]:
    """Return autofaiss's keys, with sizes in bytes and times in milliseconds.

    "reconstruction error %" is the root mean square over sampled vectors, whose length is 1 with the cosine metric;
    None for other metrics. "compression ratio" is the size of the float32 vectors over the size of the index.

    Args:
        config: the index section of the pipeline.
        paths: the index files; `index_path` is a list if there are several.
        size: the bytes of all files.
        vectors: the number of vectors.
        dim: their dimension.
        lists: the number of inverted lists; 0 for other families.
        timings: the search latencies of the evaluation.
        baseline: the drift baseline of the training, with its `code_error`.
    """
    error = math.sqrt(baseline.get("code_error", 0.0)) * 100 if config.metric == "cosine" else None
    return {
        "index_key": config.factory,
        "index_param": _format_index_param(config, lists),
        "index_path": paths[0] if len(paths) == 1 else list(paths),
        "size in bytes": size,
        "avg_search_speed_ms": timings.get("single_query_mean_ms", timings.get("single_query_p50_ms")),
        "99p_search_speed_ms": timings.get("single_query_p99_ms"),
        "reconstruction error %": error,
        "nb vectors": vectors,
        "vectors dimension": dim,
        "compression ratio": 4 * dim * vectors / size if size else None,
    }


def _format_index_param(config: IndexConfig, lists: int) -> str:
    """Format the search parameters for FAISS's ParameterSpace."""
    if lists:
        return f"nprobe={min(lists, config.nprobe or max(8, lists // 8))}"
    return f"efSearch={config.ef_search or 64}" if "HNSW" in config.factory else ""
