"""Updated shards hold and return the same as rebuilt ones."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.records import Rerank
from indexmill.storage.root import Root
from indexmill.tasks.indexing.factory import estimate_bytes_per_item
from indexmill.tasks.indexing.shard_builder import ShardBuild
from indexmill.tasks.indexing.shard_store import read_index
from tests.indexing.nightly import Database, draw_centers, draw_clustered, make_searcher, read_ids, run_build

DIM = 16
SHARD_BYTES = 400 * (4 * DIM + 8)  # 400 items of 16 float32 numbers and an id


@pytest.fixture
def database(root: Root) -> Database:
    """1,000 vectors around 20 centers."""
    database = Database(root, DIM)
    database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 1000))
    return database


def make_config(factory: str = "IVF8,Flat", **settings: object) -> IndexConfig:
    """Configure small shards, and a training that is always reused."""
    lasting = {"max_changed": 1, "max_imbalance": 99, "max_error_rise": 99, "max_recall_drop": 1, "queries": 100}
    return IndexConfig.model_validate({"factory": factory, "shard_bytes": SHARD_BYTES, "drift": lasting, **settings})


def change_a_little(database: Database) -> None:
    """Delete 30 items, replace 20, insert 100."""
    database.delete(database.draw_rows(30))
    database.replace(database.draw_rows(20), draw_clustered(database.random, draw_centers(database.random, 3, DIM), 20))
    database.insert(draw_clustered(database.random, draw_centers(database.random, 3, DIM), 100))


def read_all_ids(root: Root, filled: ShardBuild) -> list[int]:
    return sorted(np.concatenate([read_ids(root, shard) for shard in filled.shards]).tolist())


def test_new_items_change_only_the_open_shard(root: Root, database: Database) -> None:
    """Shards of 400, 400 and 200 and 50 new items: two files are reused, one is updated, and no fourth one is opened."""
    trained, first = run_build(root, "index", database, make_config())
    assert [shard.count for shard in first.shards] == [400, 400, 200]
    database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 50))
    again, second = run_build(root, "index", database, make_config(), trained, first.shards)
    assert again.digest == trained.digest
    assert (second.built, second.updated, second.reused) == (0, 1, 2)
    assert second.shards[:2] == first.shards[:2]
    assert second.shards[2].count == 250
    assert root.verify_file(first.shards[2].index)  # copy on write: the previous file is intact
    assert read_all_ids(root, second) == sorted(database.ids.tolist())


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param("Flat", marks=pytest.mark.slow),
        "HNSW8",
        pytest.param("IVF8,Flat", marks=pytest.mark.slow),
        pytest.param("IVF8,SQ8", marks=pytest.mark.slow),
        "IVF8,PQ8x4fs",
        pytest.param("IVF8,RaBitQfs", marks=pytest.mark.slow),
        pytest.param("PCA8,IVF8,Flat", marks=pytest.mark.slow),
    ],
)
def test_an_updated_index_equals_a_rebuilt_one(factory: str, root: Root, database: Database) -> None:
    """Build and update compared with one build, with the same training: the same ids, and the same results with all
    lists visited.
    """
    trained, first = run_build(root, "index", database, make_config(factory))
    change_a_little(database)
    again, updated = run_build(root, "index", database, make_config(factory), trained, first.shards)
    assert again.digest == trained.digest
    rebuilt = run_build(root, "other", database, make_config(factory), trained)[1]
    assert updated.updated == (len(updated.shards) if trained.lists else 0)
    assert (rebuilt.updated, rebuilt.reused) == (0, 0)
    assert read_all_ids(root, updated) == read_all_ids(root, rebuilt) == sorted(database.ids.tolist())
    queries = draw_clustered(database.random, draw_centers(database.random, 20, DIM), 50)
    scores, retrieved = make_searcher(root, updated, make_config(factory), nprobe=8).search(queries, 10)
    expected, expected_ids = make_searcher(root, rebuilt, make_config(factory), nprobe=8).search(queries, 10)
    np.testing.assert_allclose(scores, expected, atol=1e-2 if factory == "HNSW8" else 1e-5)
    is_approximate = factory in ("HNSW8", "IVF8,PQ8x4fs", "IVF8,RaBitQfs")  # a graph is not exact; codes tie
    assert np.mean(retrieved == expected_ids) > (0.97 if is_approximate else 0.999)


@pytest.mark.parametrize("rerank", ["sq8", pytest.param("fp16", marks=pytest.mark.slow), pytest.param("exact", marks=pytest.mark.slow)])
def test_stored_vectors_are_those_of_the_items(rerank: Rerank, root: Root, database: Database) -> None:
    """After an update, ids ascend, row i is the vector of id i, and the bytes are those of a shard built from scratch."""
    config = make_config(rerank=rerank, shards=1)
    trained, first = run_build(root, "index", database, config)
    change_a_little(database)
    filled = run_build(root, "index", database, config, trained, first.shards)[1]
    assert filled.updated == 1
    files = {suffix: np.load(root.verify_file(ref)) for suffix, ref in filled.shards[0].vectors.items()}
    with open_vectors(root, database.make_record(), side="database") as blocks:
        ids, expected = concatenate_blocks(blocks, DIM)
    np.testing.assert_array_equal(files["ids.npy"], ids)
    stored = files["vectors.npy"].astype(np.float32)
    if rerank == "sq8":
        assert files["vectors.npy"].dtype == np.uint8
        low, width = files["bounds.npy"]
        stored = low + (stored + 0.5) / 255 * width
        inside = (expected >= low) & (expected <= low + width)
        assert inside.mean() > 0.99  # the bounds are those of the first training
        stored, expected = stored[inside], expected[inside]
    np.testing.assert_allclose(stored, expected, atol={"sq8": 1e-2, "fp16": 5e-4, "exact": 0}[rerank])
    rebuilt = run_build(root, "other", database, config, trained)[1]
    assert {name: ref.sha256 for name, ref in rebuilt.shards[0].vectors.items()} == {
        name: ref.sha256 for name, ref in filled.shards[0].vectors.items()
    }


@pytest.mark.parametrize(
    "factory", ["IVF8,Flat", pytest.param("HNSW8", marks=pytest.mark.slow), pytest.param("IVF8,PQ8x4fs", marks=pytest.mark.slow)]
)
def test_equal_inputs_give_equal_bytes(factory: str, tmp_path: Path) -> None:
    """With the same seed, threads and inputs, shards are byte-identical, built by several threads and then updated."""
    digests = []
    for name in ("first", "second"):
        root = Root(tmp_path / name)
        database = Database(root, DIM)
        database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 1000))
        trained, filled = run_build(root, "index", database, make_config(factory, rerank="sq8"))
        change_a_little(database)
        _, second = run_build(root, "index", database, make_config(factory, rerank="sq8"), trained, filled.shards)
        digests.append([ref.sha256 for shard in (*filled.shards, *second.shards) for ref in shard.files])
        root.close()
    assert digests[0] == digests[1]


def test_a_damaged_shard_is_rebuilt_and_not_updated(root: Root, database: Database) -> None:
    """A byte of the previous file differs: the shard is built from scratch, and its items stay in it."""
    trained, first = run_build(root, "index", database, make_config())
    path = root.file(first.shards[2].index)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 50))
    second = run_build(root, "index", database, make_config(), trained, first.shards)[1]
    assert (second.built, second.updated, second.reused) == (1, 0, 2)
    assert [shard.count for shard in second.shards] == [400, 400, 250]
    assert read_all_ids(root, second) == sorted(database.ids.tolist())


def test_a_lost_rows_table_causes_a_rebuild_without_losing_items(root: Root, database: Database) -> None:
    """Without its rows table, the items of a shard are assigned again."""
    trained, first = run_build(root, "index", database, make_config())
    root.file(first.shards[1].rows).unlink()
    second = run_build(root, "index", database, make_config(), trained, first.shards)[1]
    assert second.reused >= 1
    assert read_all_ids(root, second) == sorted(database.ids.tolist())


@pytest.mark.parametrize(("factory", "size"), [("Flat", 4 * DIM + 8), ("IVF8,PQ8x4fs", 4 + 8), ("HNSW8", 4 * DIM + 8 + 4 * 16)])
def test_the_estimated_item_size_is_code_id_and_links(factory: str, size: int, root: Root, database: Database) -> None:
    """64 bytes for a vector of 16 numbers, 4 for a code of 8 half-bytes, 8 for an id, and 16 links on a graph's lowest
    level.
    """
    trained = run_build(root, "index", database, make_config(factory))[0]
    assert estimate_bytes_per_item(read_index(root.file(trained.index), trained.index)) == size


def test_filling_one_shard_leaves_the_threads_of_later_searches(root: Root, database: Database) -> None:
    """One shard is filled in the caller's own thread, and a flat index by one thread of FAISS: only for as long as that takes."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        _, build = run_build(root, "index", database, make_config("Flat", shards=1))
        assert (build.built, faiss.omp_get_max_threads()) == (1, 2)
    finally:
        faiss.omp_set_num_threads(before)
