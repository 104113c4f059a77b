"""Vector stores in mapped files, and FAISS indexes that re-rank with them."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from indexmill.storage.records import Rerank
from indexmill.tasks.indexing.reranking import (
    FILE_SUFFIXES,
    compute_bounds,
    encode_sq8,
    make_store,
    open_store,
    renumber_by_row,
    write_vectors,
)

VECTORS = np.random.default_rng(0).standard_normal((200, 12), dtype=np.float32)
IDS = np.sort(np.random.default_rng(1).choice(2**62, 200, replace=False))


@pytest.mark.parametrize(("rerank", "error"), [("exact", 0.0), ("fp16", 0.002), ("sq8", 0.02)])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_faiss_scores_the_vectors_of_the_file(tmp_path: Path, rerank: Rerank, error: float, metric: str) -> None:
    bounds = compute_bounds(VECTORS) if rerank == "sq8" else None
    files = {suffix: tmp_path / suffix for suffix in FILE_SUFFIXES[rerank]}
    blocks = iter([(IDS[:77], VECTORS[:77]), (IDS[77:], VECTORS[77:])])
    write_vectors(files, ids=IDS, new_vectors=blocks, dim=12, rerank=rerank, bounds=bounds)
    opened = open_store(files["ids.npy"], files["vectors.npy"], metric, files.get("bounds.npy"))
    assert isinstance(opened.vectors, np.memmap)
    assert opened.index.reconstruct_n(0, 200) == pytest.approx(VECTORS, abs=error)
    scores, rows = opened.index.search(VECTORS[:5], 200)
    decoded = opened.index.reconstruct_n(0, 200)[rows]
    expected = (decoded * VECTORS[:5, None]).sum(2) if metric == "ip" else ((decoded - VECTORS[:5, None]) ** 2).sum(2)
    assert scores == pytest.approx(expected, abs=1e-3)


def test_sq8_bounds_are_those_of_faiss() -> None:
    """FAISS's quantizer takes the same range from the same sample."""
    own = faiss.IndexScalarQuantizer(12, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
    own.train(VECTORS)
    bounds = compute_bounds(VECTORS)
    assert faiss.vector_to_array(own.sq.trained) == pytest.approx(bounds.reshape(-1))


def test_values_outside_the_bounds_are_clipped() -> None:
    bounds = np.stack([np.zeros(12), np.ones(12)]).astype(np.float32)
    assert encode_sq8(np.array([[9] * 12, [-9] * 12], np.float32), bounds).tolist() == [[255] * 12, [0] * 12]


@pytest.mark.parametrize(
    ("ids", "vectors"),
    [
        (IDS[:-1], VECTORS),
        (IDS[::-1].copy(), VECTORS),
        (IDS.astype(np.int32), VECTORS),
        (IDS, VECTORS.astype(np.float64)),
        (IDS, VECTORS.astype(np.uint8)),
    ],
)
def test_arrays_that_do_not_belong_together_are_rejected(ids: np.ndarray, vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="vectors"):
        make_store(ids, vectors, "cosine")


def test_sq8_without_bounds_is_rejected() -> None:
    with pytest.raises(ValueError, match="bounds"):
        encode_sq8(VECTORS, None)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,PQ6x4fs", "IVF4,PQ6x4", "PCA8,IVF4,Flat", "Flat", "HNSW8"])
def test_a_renumbered_index_returns_the_rows_of_its_ids(factory: str) -> None:
    index = faiss.index_factory(12, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index = index if "IVF" in factory else faiss.IndexIDMap2(index)
    index.add_with_ids(VECTORS, IDS)
    before = index.search(VECTORS[:20], 5)[1]
    rows = renumber_by_row(index, IDS).search(VECTORS[:20], 5)[1]
    assert np.array_equal(np.where(rows < 0, -1, IDS[rows]), before)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "Flat"])
def test_an_item_without_a_stored_vector_is_rejected(factory: str) -> None:
    index = faiss.index_factory(12, factory)
    index.train(VECTORS)
    index = index if "IVF" in factory else faiss.IndexIDMap2(index)
    index.add_with_ids(VECTORS, IDS)
    with pytest.raises(ValueError, match="vector"):
        renumber_by_row(index, np.delete(IDS, 50))


def test_inverted_lists_on_disk_are_rejected(tmp_path: Path) -> None:
    index = faiss.index_factory(12, "IVF4,Flat")
    index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    faiss.write_index(index, str(tmp_path / "i.faiss"))
    with pytest.raises(ValueError, match="OnDisk"):
        renumber_by_row(faiss.read_index(str(tmp_path / "i.faiss"), faiss.IO_FLAG_MMAP), IDS)
