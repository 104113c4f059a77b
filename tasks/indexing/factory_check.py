"""Check a FAISS factory before any work, by trying it on random vectors in a process of its own.

FAISS accepts factories that it cannot train, fill, store or search. Some raise an error, some abort their process, and some
answer with the wrong items. The trial does what builds do, at a small size: it trains, fills shards block by block, updates
them, writes and maps them, and searches for stored vectors.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexmill.configs.models import IndexConfig
from indexmill.storage.errors import InputError
from indexmill.storage.index_records import SearchParams
from indexmill.tasks.indexing.factory import FAISS_METRICS, find_ivf, list_layers, make_index, min_training_items, remove_vectors
from indexmill.tasks.indexing.searcher import Searcher

# Dimensions that embeddings have: a factory that fits none of them is wrong for every encoder.
COMMON_DIMS = (384, 512, 768, 1024, 1280, 576, 960, 2048, 96, 100)
TIMEOUT_S = 30
# The families that tests/indexing/test_factory.py tries with both metrics.
PROVEN_FAMILIES = re.compile(
    r"((PCA|OPQ)[1-9]\d*(_\d+)?,)?(IVF[1-9]\d*(_HNSW)?,)?(Flat|SQ[468]|SQ(fp16|bf16)|PQ[1-9]\d*(x4|x6|x8)?(np|fs)?)"
    r"|HNSW([4-9]|[1-9]\d\d?)?(,Flat|[_,]SQ(8|fp16))?"
)
MAX_LISTS = 8
MAX_TRAINING_ITEMS = 5000
STORED_VECTORS = 400
MIN_FOUND = 0.5


def check_factory(config: IndexConfig) -> None:
    """Raise InputError, before any work, for a factory that fits none of COMMON_DIMS, or that fails on random vectors."""
    if config.factory == "auto":
        return
    accepted, errors = [], []
    for dim in sorted(COMMON_DIMS):
        try:
            make_index(config, dim)
            accepted.append(dim)
        except InputError as error:
            errors.append(error)
    if not accepted:
        raise errors[0]
    dims = dict.fromkeys((accepted[0], accepted[len(accepted) // 2], accepted[-1]))
    if fault := find_factory_fault(config.factory, config.metric, tuple(dims)):
        raise InputError(
            "FAISS accepts this factory, but the index does not work",
            where=f"index.factory = {config.factory}, index.metric = {config.metric}",
            expected="an index that finds its own items",
            got=f"{fault} (tried with random vectors of {accepted[0]} dimensions)",
            next_step="choose another factory, such as Flat, HNSW32, IVF64,Flat or auto",
        )


@cache
def find_factory_fault(factory: str, metric: str, dims: tuple[int, ...]) -> str:
    """Return why an index of this factory cannot be built, or answers wrongly; empty if the trial passes.

    Proven families are not tried, nor those that need more than MAX_TRAINING_ITEMS vectors; a trial that takes longer
    than TIMEOUT_S passes.

    Args:
        factory: a factory string that FAISS accepts.
        metric: cosine, ip or l2.
        dims: dimensions to try, one after another; one that passes is enough.
    """
    if PROVEN_FAMILIES.fullmatch(factory) or min_training_items(shrink_lists(factory)) > MAX_TRAINING_ITEMS:
        return ""
    faults = []
    for dim in dims:
        if not (fault := _run_in_child(factory, metric, dim)):
            return ""
        faults.append(fault)
    return faults[0]


def shrink_lists(factory: str) -> str:
    """Return the factory with at most MAX_LISTS inverted lists, unless another index than a flat one or HNSW assigns them."""
    return re.sub(r"IVF(\d+)(?=,|_HNSW)", lambda match: f"IVF{min(int(match[1]), MAX_LISTS)}", factory)


def try_factory(factory: str, metric: str, dim: int) -> str:
    """Build and search a small index in this process, which FAISS may abort. Returns the fault, or an empty text."""
    random = np.random.default_rng(0)
    count = max(STORED_VECTORS, min_training_items(factory))
    vectors = random.standard_normal((count, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored, ids = vectors[:STORED_VECTORS], np.arange(1, STORED_VECTORS + 1) * 1_000_003
    try:
        index = make_index(IndexConfig(factory=factory, metric=metric), dim)
        if not index.is_trained:
            _shorten_training(index)
            index.train(vectors)
        searcher = Searcher(_fill_shards(index, stored, ids), metric, SearchParams(nprobe=MAX_LISTS, ef_search=128))
        _, retrieved = searcher.search(stored[::4], 10)
    except InputError as error:
        return error.got
    except RuntimeError as error:
        return re.sub(r"^Error in .*? at \S+: ", "", str(error).strip(), flags=re.S)[-300:]
    found = float((retrieved == ids[::4, None]).any(axis=1).mean())
    return "" if found >= MIN_FOUND else f"the index finds {found:.0%} of its items among the first 10 for their own vectors"


def main() -> None:
    """Run the trial that the arguments describe, and print its fault as JSON."""
    factory, metric, dim = sys.argv[1:]
    faiss.omp_set_num_threads(1)
    sys.stdout.write(json.dumps(try_factory(factory, metric, int(dim))))


def _run_in_child(factory: str, metric: str, dim: int) -> str:
    shrunk = shrink_lists(factory)
    try:
        faiss.index_factory(dim, shrunk, FAISS_METRICS[metric])
    except RuntimeError:
        shrunk = factory
    command = [sys.executable, "-P", "-m", "indexmill.tasks.indexing.factory_check", shrunk, metric, str(dim)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 (no shell, and our own module)
            command, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False, process_group=0
        )
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode < 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        details = re.sub(r"Error in .*? at \S+: ", "", " ".join(reason))[-200:]
        return f"FAISS ends its process with {signal.Signals(-done.returncode).name}" + (f": {details}" if details else "")
    if done.returncode:
        return f"the trial ended with status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}"
    return str(json.loads(done.stdout))


def _shorten_training(index: Any) -> None:
    """Leave out what takes long in training and does not change which calls FAISS supports."""
    if (ivf := find_ivf(index)) is not None:
        ivf.cp.min_points_per_centroid = 1
        ivf.cp.niter = 2
    for layer in list_layers(index):
        if hasattr(layer, "do_polysemous_training"):
            layer.do_polysemous_training = False
        if hasattr(layer, "pq"):
            layer.pq.cp.niter = 2


def _fill_shards(index: Any, vectors: np.ndarray, ids: np.ndarray) -> list[faiss.Index]:
    """Fill a shard of one item and two larger ones, each in two blocks. Lists are updated as a nightly build does."""
    shards = []
    with tempfile.TemporaryDirectory(prefix="indexmill-") as folder:
        empty = str(Path(folder, "empty.faiss"))
        faiss.write_index(index, empty)
        for number, rows in enumerate((slice(0, 1), slice(1, 200), slice(200, None))):
            shard, path = faiss.read_index(empty), str(Path(folder, f"{number}.faiss"))
            shard_ids, shard_vectors = ids[rows], vectors[rows]
            for block in (slice(0, 50), slice(50, None)):
                if len(shard_ids[block]):
                    shard.add_with_ids(shard_vectors[block], shard_ids[block])
            if find_ivf(shard) is not None:
                remove_vectors(shard, shard_ids[:20])
                shard.add_with_ids(shard_vectors[:20], shard_ids[:20])
            faiss.write_index(shard, path)
            shards.append(faiss.read_index(path, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY))
    return shards


if __name__ == "__main__":
    main()
