"""Create FAISS indexes from factory strings, and work with the inverted lists inside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import InputError
from indexmill.tasks.indexing.coarse_quantizer import expand_factory

FAISS_METRICS = {"cosine": faiss.METRIC_INNER_PRODUCT, "ip": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


def make_index(config: IndexConfig, dim: int) -> faiss.Index:
    """Create an empty index that accepts item ids. Many lists get an HNSW coarse quantizer (`expand_factory`).

    IVF indexes have `add_with_ids` of their own; every other index is wrapped in IDMap2. (IDMap2 around an IVF index
    would give wrong ids after a merge.)

    Raises:
        InputError: FAISS rejects the factory or `dim`, or makes an index with another metric.
    """
    try:
        index = faiss.index_factory(dim, expand_factory(config.factory), FAISS_METRICS[config.metric])
    except RuntimeError as error:
        raise InputError(
            "FAISS rejects this factory",
            where=f"index.factory = {config.factory}",
            expected="a FAISS factory string such as Flat, IVF64,Flat or HNSW32 that fits the encoder's dimension",
            got=f"{_strip_source_position(error)} (tried with {dim} dimensions)",
            next_step="correct index.factory",
        ) from None
    if isinstance(index, faiss.IndexIDMap | faiss.IndexRefine | faiss.IndexBinary):
        raise InputError(
            "this factory wraps an index in a way that cannot be sharded",
            where=f"index.factory = {config.factory}",
            got=type(index).__name__,
            next_step="remove IDMap and Refine: Indexmill adds ids itself, and re-ranks with index.rerank",
        )
    _check_metric(index, config)
    for layer in list_layers(index):
        if hasattr(layer, "do_polysemous_training"):
            # It orders the codes for a search that is not used here, takes thirty times as long as all other training, and
            # changes no distance.
            layer.do_polysemous_training = False
    ivf = find_ivf(index)
    if ivf is None:
        return faiss.IndexIDMap2(index)
    ivf.cp.spherical = config.metric == "cosine"
    ivf.cp.seed = config.seed + 1  # FAISS replaces 0 by a seed of its own
    return index


@cache
def min_training_items(factory: str) -> int:
    """Return the minimum number of database items to train the factory: its lists, and 2^bits centroids of a product
    quantizer.
    """
    lists = [int(count) for count in re.findall(r"IVF(\d+)", factory)]
    bits = [int(width or 8) for width in re.findall(r"PQ\d+(?:x(\d+))?", factory)]
    return max([1, *lists, *(2**width for width in bits if width <= 16)])


def list_layers(index: Any) -> list[Any]:
    """Return an index and all indexes inside it, the outermost first: what an ID map, a transform or a graph wraps."""
    layers = [index]
    while isinstance(layers[-1], faiss.IndexIDMap | faiss.IndexPreTransform):
        layers.append(faiss.downcast_index(layers[-1].index))
    if isinstance(layers[-1], faiss.IndexHNSW | faiss.IndexNSG):
        graph: Any = layers[-1]
        layers.append(faiss.downcast_index(graph.storage))
    return layers


def find_ivf(index: faiss.Index) -> faiss.IndexIVF | None:
    """Return the IVF index inside an index; None for other families."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap | faiss.IndexPreTransform) else index
    if isinstance(inner, faiss.IndexPreTransform):
        return find_ivf(inner)
    return inner if isinstance(inner, faiss.IndexIVF) else None


def unwrap_id_map(index: faiss.Index) -> faiss.Index:
    """Return the index inside an IDMap; any other index as it is."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index


def set_index_search_params(index: faiss.Index, nprobe: int | None, ef_search: int | None) -> None:
    """Set how much of an index a search visits: nprobe lists (default: an eighth, at least 8) or ef_search candidates
    (default: 64).
    """
    ivf = find_ivf(index)
    if ivf is not None:
        ivf.nprobe = min(ivf.nlist, nprobe or max(8, ivf.nlist // 8))
        return
    inner = unwrap_id_map(index)
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = ef_search or 64


def estimate_bytes_per_item(index: faiss.Index) -> int:
    """Estimate the bytes of memory per item of an index: its code, its id, and the links of a graph."""
    inner = find_ivf(index) or unwrap_id_map(index)
    if isinstance(inner, faiss.IndexHNSW):
        return int(estimate_bytes_per_item(faiss.downcast_index(inner.storage)) + 4 * inner.hnsw.nb_neighbors(0))  # type: ignore[attr-defined]
    return int(getattr(inner, "code_size", 4 * index.d)) + 8


def remove_vectors(index: faiss.Index, ids: np.ndarray) -> int:
    """Remove every vector with one of these ids (int64) from an IVF index, and return the number of removed vectors."""
    removed = int(index.remove_ids(ids))  # type: ignore[arg-type]  # FAISS takes arrays too
    ivf = find_ivf(index)
    if ivf is not None and ivf.invlists is not None:
        _clear_block_tails(faiss.downcast_InvertedLists(ivf.invlists))
    return removed


@contextmanager
def use_gpu_clustering(index: Any) -> Iterator[None]:
    """Train the lists of an IVF index on all GPUs while the block runs. None, or no GPU: change nothing."""
    if index is None or not faiss.get_num_gpus():
        yield
        return
    index.clustering_index = gpu_index = faiss.index_cpu_to_all_gpus(faiss.IndexFlat(index.d, index.metric_type))
    try:
        yield
    finally:
        index.clustering_index = None
        del gpu_index


def _check_metric(index: Any, config: IndexConfig) -> None:
    """Raise InputError if an index inside has another metric: FAISS makes some families with L2 whatever it is asked for,
    and their distances would be read as similarities.
    """
    layers = list_layers(index)
    if any(layer.metric_type != FAISS_METRICS[config.metric] for layer in layers):
        raise InputError(
            "FAISS makes this index with another metric than the one configured",
            where=f"index.factory = {config.factory}, index.metric = {config.metric}",
            expected=f"an index that compares vectors by {config.metric}",
            got=f"{type(layers[-1]).__name__} with {_name_metric(layers)}",
            next_step="use index.metric: l2 (the same order for normalized vectors), or another factory, such as HNSW32,SQ8 or IVF64,PQ16",
        )


def _name_metric(layers: list[Any]) -> str:
    return " and ".join(dict.fromkeys("l2" if layer.metric_type == faiss.METRIC_L2 else "ip" for layer in layers))


def _clear_block_tails(lists: Any) -> None:
    """Clear the free slots of each list's last block, if the lists store their codes in blocks.

    Fast-scan lists do: 32 codes per block, and adding sets bits without clearing old ones. After a removal FAISS 1.15
    leaves old codes behind the end of a list, so the next added code would be a mixture of two vectors.
    """
    if not isinstance(lists, faiss.BlockInvertedLists):  # type: ignore[attr-defined]
        return
    packer = lists.packer
    zero_code = np.zeros(packer.code_size, np.uint8)
    for number in range(lists.nlist):
        full, used = divmod(lists.list_size(number), packer.nvec)
        if used:
            blocks = faiss.rev_swig_ptr(lists.get_codes(number), (full + 1) * packer.block_size).reshape(full + 1, packer.block_size)
            for slot in range(used, packer.nvec):
                packer.pack_1(zero_code, slot, blocks[-1:])


def _strip_source_position(error: RuntimeError) -> str:
    return re.sub(r"^Error in .*? at \S+: ", "", str(error).strip(), flags=re.S)
