"""SOAR: the two lists of a vector, and filling, removing and merging items."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from indexmill.tasks.indexing.factory import find_ivf, remove_vectors
from indexmill.tasks.indexing.soar import SPILL_PENALTY, ListAssigner, assign_lists, fill_index, fit_projection, train_soar

DIM, LISTS, SUBQUANTIZERS = 16, 8, 8


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def read_ids(index: faiss.Index) -> np.ndarray:
    """All ids in the lists, sorted."""
    index = find_ivf(index)
    lists = [
        faiss.rev_swig_ptr(index.invlists.get_ids(i), index.get_list_size(i)).copy() for i in range(index.nlist) if index.get_list_size(i)
    ]
    return np.sort(np.concatenate(lists))


def test_the_spill_list_has_a_residual_across_the_first_one() -> None:
    """By hand: x = 0, c₁ = (-1, 0), so r₁ = (1, 0).

    (1.2, 0) errs along r₁: 1.44 + 1.5 · 1.44 = 3.6. (0, 1.4) errs across it: 1.96.
    """
    centroids = np.array([[-1, 0], [1.2, 0], [0, 1.4], [5, 5]], np.float32)
    first, second = assign_lists(np.zeros((1, 2), np.float32), centroids)
    assert (first[0], second[0]) == (0, 2)


def test_assignment_follows_the_formula() -> None:
    vectors, centroids = unit(300), unit(40, seed=1)
    first, second = assign_lists(vectors, centroids)
    assert (ListAssigner(centroids).assign_nearest(vectors) == first).all()
    for x, first_list, spill_list in zip(vectors.astype(float), first, second, strict=True):
        residuals = x - centroids.astype(float)
        squares = (residuals**2).sum(axis=1)
        loss = squares + SPILL_PENALTY * (residuals @ residuals[first_list]) ** 2 / squares[first_list]
        near = np.argsort(squares)[1:16]
        assert first_list == squares.argmin()
        assert spill_list in near
        assert loss[spill_list] == pytest.approx(loss[near].min(), rel=1e-4)


def test_a_single_list_is_both_first_and_spill_list() -> None:
    first, second = assign_lists(unit(5), unit(1))
    assert first.tolist() == second.tolist() == [0] * 5


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_every_item_is_in_two_lists_and_its_own_neighbor(metric: str) -> None:
    vectors, ids = unit(500), np.arange(500) * 7 + 2**40
    trained = train_soar(vectors, LISTS, SUBQUANTIZERS, metric)
    index = fill_index(trained, [(ids[:333], vectors[:333]), (ids[333:], vectors[333:])])
    assert trained.ntotal == 0
    assert index.ntotal == 1000
    assert read_ids(index).tolist() == np.repeat(ids, 2).tolist()
    index.nprobe = LISTS
    assert (index.search(vectors, 30)[1] == ids[:, None]).any(axis=1).all()


def test_both_entries_of_a_vector_have_the_code_of_faiss() -> None:
    vectors = unit(200)
    trained = train_soar(vectors, LISTS, SUBQUANTIZERS, "cosine")
    first, _ = assign_lists(vectors, trained.quantizer.reconstruct_n(0, LISTS))
    plain = faiss.clone_index(trained)
    plain.add_core(200, faiss.swig_ptr(vectors), faiss.swig_ptr(np.arange(200)), faiss.swig_ptr(first))
    plain.nprobe = LISTS
    index = fill_index(trained, [(np.arange(200), vectors)])
    index.nprobe = LISTS
    expected, results = plain.search(vectors[:9], 20), index.search(vectors[:9], 40)
    for row in range(9):
        assert np.sort(results[0][row])[::-1] == pytest.approx(
            np.repeat(np.sort(expected[0][row])[::-1], 2), abs=0.02
        )  # 8-bit look-up tables


def test_items_are_removed_and_added() -> None:
    vectors, ids = unit(400), np.arange(400)
    trained = train_soar(vectors, LISTS, SUBQUANTIZERS, "cosine")
    index = fill_index(trained, [(ids[:300], vectors[:300])])
    remove_vectors(index, np.arange(100))
    index.merge_from(fill_index(trained, [(ids[300:], vectors[300:])]), 0)
    assert read_ids(index).tolist() == np.repeat(np.arange(100, 400), 2).tolist()
    assert index.ntotal == 600
    index.nprobe = LISTS
    assert (index.search(vectors[100:], 30)[1] == ids[100:, None]).any(axis=1).all()


def test_an_empty_update_changes_nothing() -> None:
    vectors = unit(100)
    trained = train_soar(vectors, LISTS, SUBQUANTIZERS, "cosine")
    index = fill_index(trained, [(np.arange(100), vectors)])
    before = faiss.serialize_index(index).tobytes()
    remove_vectors(index, np.empty(0, np.int64))
    index.merge_from(fill_index(trained, []), 0)
    assert faiss.serialize_index(index).tobytes() == before


def test_equal_seeds_give_equal_bytes() -> None:
    vectors = unit(600)

    def train_and_fill(seed: int) -> bytes:
        trained = train_soar(vectors, LISTS, SUBQUANTIZERS, "cosine", seed=seed)
        return faiss.serialize_index(fill_index(trained, [(np.arange(600), vectors)])).tobytes()

    assert train_and_fill(0) == train_and_fill(0)
    assert train_and_fill(0) != train_and_fill(1)


def test_block_sizes_do_not_change_results() -> None:
    vectors, ids = unit(300), np.arange(300)
    trained = train_soar(vectors, LISTS, SUBQUANTIZERS, "cosine")
    single_block = fill_index(trained, [(ids, vectors)])
    small_blocks = fill_index(trained, [(ids[i : i + 7], vectors[i : i + 7]) for i in range(0, 300, 7)])
    single_block.nprobe = small_blocks.nprobe = 3
    scores, other = single_block.search(vectors, 5)[0], small_blocks.search(vectors, 5)[0]
    assert np.array_equal(scores, other)


def test_an_index_survives_serialization(tmp_path: object) -> None:
    vectors = unit(300)
    trained = train_soar(vectors, LISTS, SUBQUANTIZERS, "cosine")
    index = fill_index(trained, [(np.arange(300), vectors)])
    reloaded = faiss.deserialize_index(faiss.serialize_index(index))
    assert np.array_equal(reloaded.search(vectors, 5)[1], index.search(vectors, 5)[1])


def test_a_projection_deals_the_principal_directions() -> None:
    """By hand: axes 0 to 3 with variances 4 > 3 > 2 > 1 and two subquantizers: the draft gives axes 0 and 3, and 1 and
    2.
    """
    sample = np.diag(np.sqrt(np.array([4, 3, 2, 1, 0.1]))).astype(np.float32)
    transform = fit_projection(sample, 4, 2)
    matrix = faiss.vector_to_array(transform.A).reshape(4, 5)
    assert np.abs(matrix).argmax(axis=1).tolist() == [0, 3, 1, 2]
    assert matrix @ matrix.T == pytest.approx(np.eye(4), abs=1e-6)


def test_a_projection_on_all_directions_preserves_inner_products() -> None:
    vectors = unit(200)
    turned = fit_projection(vectors, DIM, 8).apply(vectors)
    assert turned @ turned.T == pytest.approx(vectors @ vectors.T, abs=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_projected_index_is_updated_and_survives_serialization(metric: str) -> None:
    vectors, ids = unit(400), np.arange(400)
    trained = train_soar(vectors, LISTS, 6, metric, pca_dims=12)
    index = fill_index(trained, [(ids[:300], vectors[:300])])
    remove_vectors(index, np.arange(100))
    index.merge_from(fill_index(trained, [(ids[300:], vectors[300:])]), 0)
    reloaded = faiss.deserialize_index(faiss.serialize_index(index))
    assert index.ntotal == reloaded.ntotal == 600
    assert read_ids(reloaded).tolist() == np.repeat(np.arange(100, 400), 2).tolist()
    find_ivf(reloaded).nprobe = LISTS
    assert (reloaded.search(vectors[100:], 30)[1] == ids[100:, None]).any(axis=1).all()


def test_without_spill_every_item_is_in_its_nearest_list() -> None:
    vectors = unit(300)
    trained = train_soar(vectors, LISTS, SUBQUANTIZERS, "cosine")
    index = fill_index(trained, [(np.arange(300), vectors)], spill=False)
    assert read_ids(index).tolist() == list(range(300))
    assert (index.search(vectors, 20)[1] == np.arange(300)[:, None]).any(axis=1).mean() > 0.97  # nprobe is 1
