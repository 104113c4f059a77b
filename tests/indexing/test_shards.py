"""Shards are updated instead of rebuilt, and hold and answer what rebuilt ones do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexmill.configs.models import IndexConfig, Rerank
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.root import Root
from indexmill.tasks.indexing.shard_builder import ShardBuild, estimate_bytes_per_item
from indexmill.tasks.indexing.shard_store import read_index
from tests.indexing.nightly import Database, centres, clustered, held, night, searcher

DIM = 16
SHARD = 400 * (4 * DIM + 8)  # bytes: 400 items of 16 float32 numbers and an id


@pytest.fixture
def database(root: Root) -> Database:
    """1,000 vectors around 20 centres."""
    database = Database(root, DIM)
    database.insert(clustered(database.random, centres(database.random, 20, DIM), 1000))
    return database


def config(factory: str = "IVF8,Flat", **settings: object) -> IndexConfig:
    """Small shards, and a training that is kept whatever comes."""
    lasting = {"max_changed": 1, "max_imbalance": 99, "max_error_rise": 99, "max_recall_drop": 1, "queries": 100}
    return IndexConfig.model_validate({"factory": factory, "shard_bytes": SHARD, "drift": lasting, **settings})


def changed_a_little(database: Database) -> None:
    """30 gone, 20 with other contents, 100 new: half the changes are of items that exist."""
    database.delete(database.some(30))
    database.replace(database.some(20), clustered(database.random, centres(database.random, 3, DIM), 20))
    database.insert(clustered(database.random, centres(database.random, 3, DIM), 100))


def all_ids(root: Root, filled: ShardBuild) -> list[int]:
    return sorted(np.concatenate([held(root, shard) for shard in filled.shards]).tolist())


def test_new_items_touch_the_open_shard_alone(root: Root, database: Database) -> None:
    """Shards of 400, 400 and 200; 50 new items: two files are the very same, one is an update, and a fourth is never opened."""
    trained, first = night(root, "index", database, config())
    assert [shard.count for shard in first.shards] == [400, 400, 200]
    database.insert(clustered(database.random, centres(database.random, 20, DIM), 50))
    again, second = night(root, "index", database, config(), trained, first.shards)
    assert again.digest == trained.digest
    assert (second.built, second.updated, second.reused) == (0, 1, 2)
    assert second.shards[:2] == first.shards[:2]
    assert second.shards[2].count == 250
    assert root.verify_file(first.shards[2].index)  # copy on write: the earlier file is whole
    assert all_ids(root, second) == sorted(database.ids.tolist())


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4fs", "IVF8,RaBitQfs", "PCA8,IVF8,Flat"])
def test_an_updated_index_holds_and_answers_what_one_built_anew_does(factory: str, root: Root, database: Database) -> None:
    """Two nights against one, with the same training: the same ids in the files, the same answers where all is looked at."""
    trained, first = night(root, "index", database, config(factory))
    changed_a_little(database)
    again, updated = night(root, "index", database, config(factory), trained, first.shards)
    assert again.digest == trained.digest
    rebuilt = night(root, "other", database, config(factory), trained)[1]
    assert updated.updated == (len(updated.shards) if trained.lists else 0)
    assert (rebuilt.updated, rebuilt.reused) == (0, 0)
    assert all_ids(root, updated) == all_ids(root, rebuilt) == sorted(database.ids.tolist())
    queries = clustered(database.random, centres(database.random, 20, DIM), 50)
    scores, found = searcher(root, updated, config(factory), nprobe=8).search(queries, 10)
    expected, right = searcher(root, rebuilt, config(factory), nprobe=8).search(queries, 10)
    np.testing.assert_allclose(scores, expected, atol=1e-2 if factory == "HNSW8" else 1e-5)
    assert np.mean(found == right) > (
        0.97 if factory in ("HNSW8", "IVF8,PQ8x4fs", "IVF8,RaBitQfs") else 0.999
    )  # a graph is not exact; codes tie


@pytest.mark.parametrize("rerank", ["sq8", "fp16", "exact"])
def test_vectors_beside_a_shard_are_those_of_its_items(rerank: Rerank, root: Root, database: Database) -> None:
    """After two nights: ids ascend, row i is the vector of id i, and the bytes are those of a shard written at once."""
    chosen = config(rerank=rerank, shards=1)
    trained, first = night(root, "index", database, chosen)
    changed_a_little(database)
    filled = night(root, "index", database, chosen, trained, first.shards)[1]
    assert filled.updated == 1
    files = {suffix: np.load(root.verify_file(ref)) for suffix, ref in filled.shards[0].vectors.items()}
    with open_vectors(root, database.tonight(), side="database") as blocks:
        ids, expected = concatenate_blocks(blocks, DIM)
    np.testing.assert_array_equal(files["ids.npy"], ids)
    found = files["vectors.npy"].astype(np.float32)
    if rerank == "sq8":
        assert files["vectors.npy"].dtype == np.uint8
        low, width = files["bounds.npy"]
        found = low + (found + 0.5) / 255 * width
        inside = (expected >= low) & (expected <= low + width)
        assert inside.mean() > 0.99  # the bounds are those of the first night
        found, expected = found[inside], expected[inside]
    np.testing.assert_allclose(found, expected, atol={"sq8": 1e-2, "fp16": 5e-4, "exact": 0}[rerank])
    rebuilt = night(root, "other", database, chosen, trained)[1]
    assert {name: ref.sha256 for name, ref in rebuilt.shards[0].vectors.items()} == {
        name: ref.sha256 for name, ref in filled.shards[0].vectors.items()
    }


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW8", "IVF8,PQ8x4fs"])
def test_the_same_nights_elsewhere_give_the_same_bytes(factory: str, tmp_path: Path) -> None:
    """Same seed, threads and inputs: byte-identical shards, built at once by several threads and then updated."""
    digests = []
    for place in ("one", "two"):
        root = Root(tmp_path / place)
        database = Database(root, DIM)
        database.insert(clustered(database.random, centres(database.random, 20, DIM), 1000))
        trained, filled = night(root, "index", database, config(factory, rerank="sq8"))
        changed_a_little(database)
        _, second = night(root, "index", database, config(factory, rerank="sq8"), trained, filled.shards)
        digests.append([ref.sha256 for shard in (*filled.shards, *second.shards) for ref in shard.files])
        root.close()
    assert digests[0] == digests[1]


def test_a_damaged_shard_is_made_anew_and_never_built_upon(root: Root, database: Database) -> None:
    """A byte of the earlier file differs: the update starts from nothing, and its items stay in the shard where they were."""
    trained, first = night(root, "index", database, config())
    path = root.file(first.shards[2].index)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    database.insert(clustered(database.random, centres(database.random, 20, DIM), 50))
    second = night(root, "index", database, config(), trained, first.shards)[1]
    assert (second.built, second.updated, second.reused) == (1, 0, 2)
    assert [shard.count for shard in second.shards] == [400, 400, 250]
    assert all_ids(root, second) == sorted(database.ids.tolist())


def test_lost_rows_tables_cost_a_rebuild_and_no_item(root: Root, database: Database) -> None:
    """Without its rows table nobody knows what a shard held."""
    trained, first = night(root, "index", database, config())
    root.file(first.shards[1].rows).unlink()
    second = night(root, "index", database, config(), trained, first.shards)[1]
    assert second.reused >= 1
    assert all_ids(root, second) == sorted(database.ids.tolist())


@pytest.mark.parametrize(("factory", "size"), [("Flat", 4 * DIM + 8), ("IVF8,PQ8x4fs", 4 + 8), ("HNSW8", 4 * DIM + 8 + 4 * 16)])
def test_the_size_of_an_item_is_its_code_its_id_and_its_links(factory: str, size: int, root: Root, database: Database) -> None:
    """64 bytes a vector of 16 numbers, 4 a code of 8 half-bytes, 8 an id, and 16 links on a graph's lowest level."""
    trained = night(root, "index", database, config(factory))[0]
    assert estimate_bytes_per_item(read_index(root.file(trained.index), trained.index)) == size
