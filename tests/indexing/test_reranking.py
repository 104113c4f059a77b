"""Vectors by row in mapped files, and FAISS reading them where they lie."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from indexmill.storage.records import Rerank
from indexmill.tasks.indexing.reranking import by_row, compute_bounds, encode_sq8, list_suffixes, open_store, store, write_vectors

VECTORS = np.random.default_rng(0).standard_normal((200, 12), dtype=np.float32)
IDS = np.sort(np.random.default_rng(1).choice(2**62, 200, replace=False))


@pytest.mark.parametrize(("rerank", "error"), [("exact", 0.0), ("fp16", 0.002), ("sq8", 0.02)])
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_faiss_scores_what_the_file_holds(tmp_path: Path, rerank: Rerank, error: float, metric: str) -> None:
    bounds = compute_bounds(VECTORS) if rerank == "sq8" else None
    files = {suffix: tmp_path / suffix for suffix in list_suffixes(rerank)}
    write_vectors(files, IDS, iter([(IDS[:77], VECTORS[:77]), (IDS[77:], VECTORS[77:])]), 12, rerank, None, bounds)
    opened = open_store(files["ids.npy"], files["vectors.npy"], metric, files.get("bounds.npy"))
    assert isinstance(opened.vectors, np.memmap)
    assert opened.index.reconstruct_n(0, 200) == pytest.approx(VECTORS, abs=error)
    scores, rows = opened.index.search(VECTORS[:5], 200)
    decoded = opened.index.reconstruct_n(0, 200)[rows]
    expected = (decoded * VECTORS[:5, None]).sum(2) if metric == "ip" else ((decoded - VECTORS[:5, None]) ** 2).sum(2)
    assert scores == pytest.approx(expected, abs=1e-3)


def test_sq8_codes_are_faiss_own() -> None:
    """The same bytes as FAISS's quantizer makes when it takes its range from the same sample."""
    own = faiss.IndexScalarQuantizer(12, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_L2)
    own.train(VECTORS)
    bounds = compute_bounds(VECTORS)
    assert faiss.vector_to_array(own.sq.trained) == pytest.approx(bounds.reshape(-1))


def test_values_outside_the_bounds_are_the_nearest_inside() -> None:
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
def test_what_does_not_belong_together_is_refused(ids: np.ndarray, vectors: np.ndarray) -> None:
    with pytest.raises(ValueError, match="vectors"):
        store(ids, vectors, "cosine")


def test_sq8_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="bounds"):
        encode_sq8(VECTORS, None)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,PQ6x4fs", "IVF4,PQ6x4", "PCA8,IVF4,Flat", "Flat", "HNSW8"])
def test_an_index_by_row_answers_with_the_rows_of_its_ids(factory: str) -> None:
    index = faiss.index_factory(12, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index = index if "IVF" in factory else faiss.IndexIDMap2(index)
    index.add_with_ids(VECTORS, IDS)
    before = index.search(VECTORS[:20], 5)[1]
    rows = by_row(index, IDS).search(VECTORS[:20], 5)[1]
    assert np.array_equal(np.where(rows < 0, -1, IDS[rows]), before)


@pytest.mark.parametrize("factory", ["IVF4,Flat", "Flat"])
def test_an_item_without_a_vector_is_refused(factory: str) -> None:
    index = faiss.index_factory(12, factory)
    index.train(VECTORS)
    index = index if "IVF" in factory else faiss.IndexIDMap2(index)
    index.add_with_ids(VECTORS, IDS)
    with pytest.raises(ValueError, match="vector"):
        by_row(index, np.delete(IDS, 50))


def test_inverted_lists_on_disk_are_refused(tmp_path: Path) -> None:
    index = faiss.index_factory(12, "IVF4,Flat")
    index.train(VECTORS)
    index.add_with_ids(VECTORS, IDS)
    faiss.write_index(index, str(tmp_path / "i.faiss"))
    with pytest.raises(ValueError, match="OnDisk"):
        by_row(faiss.read_index(str(tmp_path / "i.faiss"), faiss.IO_FLAG_MMAP), IDS)
