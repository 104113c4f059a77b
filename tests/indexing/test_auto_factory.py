"""`index.factory: auto` through the stages: chosen, trained, filled, updated, tuned; and what it answers."""

from __future__ import annotations

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage import parquet
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors
from indexmill.storage.index_records import IndexShards, TrainedIndex
from indexmill.storage.records import EmbeddingSet, Side
from indexmill.storage.root import Root
from indexmill.tasks.indexing import auto_factory
from indexmill.tasks.indexing.factory import FAISS_METRICS
from indexmill.tasks.indexing.shard_builder import ShardBuild, build_shards
from indexmill.tasks.indexing.shard_store import open_searcher
from indexmill.tasks.indexing.training import reuse_or_train
from indexmill.tasks.tune import tune
from tests.indexing.nightly import Database, centres, clustered

DIM, ITEMS = 32, 3000
CONFIG = IndexConfig(factory="auto", shards=2, recall_target=0.9)


@pytest.fixture
def database(root: Root, monkeypatch: pytest.MonkeyPatch) -> Database:
    """3,000 clustered unit vectors, for which exact search is called too slow."""
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 1000)
    made = Database(root, DIM)
    made.insert(unit(clustered(made.random, centres(made.random, 40, DIM), ITEMS)))
    return made


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def tonight(database: Database) -> EmbeddingSet:
    """The items as they are now, one in ten of them a query."""
    found = database.tonight()
    table = pq.read_table(database.root.file(found.items))
    sides = ["query" if item % 10 == 0 else "database" for item in table["item_id"].to_pylist()]
    path = database.root.file(found.items).with_suffix(".sided.parquet")
    table = table.set_column(table.schema.get_field_index("side"), "side", pa.array(sides, pa.string()))
    parquet.write_parquet(path, table.schema, table.to_batches())
    ref, queries = database.root.make_ref(path), sides.count("query")
    update = {"items": ref, "files": (ref, *found.files[1:]), "database": len(sides) - queries, "query": queries, "digest": path.stem}
    return found.model_copy(update=update)


def side(root: Root, found: EmbeddingSet, name: Side) -> tuple[np.ndarray, np.ndarray]:
    with open_vectors(root, found, side=name) as blocks:
        return concatenate_blocks(blocks, DIM)


def recall(root: Root, found: EmbeddingSet, trained: TrainedIndex, filled: ShardBuild) -> float:
    """recall@10 of the tuned searcher on all queries, by brute force."""
    shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=filled.shards, built=0, updated=0, reused=0)
    tuned = tune.fn(root, found, found, trained, shards, CONFIG)
    assert tuned.met
    assert tuned.recall_bound is not None
    assert tuned.recall_bound >= 0.9
    searcher = open_searcher(filled.shards, root.file, CONFIG.metric, tuned.params)
    assert searcher.items == found.database
    (ids, rows), (_, queries) = side(root, found, "database"), side(root, found, "query")
    exact = ids[faiss.knn(queries, rows, 10, metric=FAISS_METRICS["cosine"])[1]]
    answers = searcher.search(queries, 10)[1]
    assert all(len(set(row)) == 10 for row in answers.tolist())
    return float(np.mean([len(set(mine) & set(right)) / 10 for mine, right in zip(answers.tolist(), exact.tolist(), strict=True)]))


def test_auto_reaches_its_target_on_the_first_night_and_after_an_update(root: Root, database: Database) -> None:
    """The table of candidates is kept; a night of small changes updates the shards and still answers for every item once."""
    found = tonight(database)
    trained = reuse_or_train(root, "index", found, CONFIG, None)
    assert trained.fast_scan
    assert trained.rerank == "exact"
    assert len(trained.choice) == 4
    assert {row["met"] for row in trained.choice} == {True}
    assert trained.choice[0]["spill"] == trained.spill
    filled = build_shards(root, "index", found, trained, "database", CONFIG, (), lambda items: None)
    assert sum(shard.count for shard in filled.shards) == found.database
    assert recall(root, found, trained, filled) >= 0.9
    database.delete(database.some(60))
    database.insert(unit(clustered(database.random, centres(database.random, 40, DIM), 80)))
    later = tonight(database)
    again = reuse_or_train(root, "index", later, CONFIG, trained)
    updated = build_shards(root, "index", later, again, "database", CONFIG, filled.shards, lambda items: None)
    assert again.digest == trained.digest
    assert updated.updated == 2
    assert recall(root, later, again, updated) >= 0.9


def test_vectors_without_principal_directions_lie_in_lists_as_they_are(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 directions that matter alike: codes over two thirds of them miss the target, and the vectors themselves do not.

    The comparison tells of all five; under a budget that the vectors do not fit, the nearest code is taken.
    """
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 1000)
    database = Database(root, 128)
    database.insert(unit(database.random.standard_normal((3000, 128))))
    found = tonight(database)
    chosen = auto_factory.choose_factory(root, found, IndexConfig(factory="auto", recall_target=0.98))
    assert (chosen.factory, chosen.rerank, chosen.soar_candidate) == ("IVF64,Flat", "none", None)
    assert [row["met"] for row in chosen.table] == [True, False, False, False, False]
    small = auto_factory.choose_factory(
        root, found, IndexConfig.model_validate({"factory": "auto", "recall_target": 0.98, "memory_budget": "1MB"})
    )
    assert small.soar_candidate is not None
    assert not any(row["met"] for row in small.table)


def test_every_form_of_re_ranking_answers_from_its_files(root: Root, database: Database) -> None:
    """Scores are those of the vectors kept: exact to the last bits, halves and bytes nearly so."""
    found = tonight(database)
    _, queries = side(root, found, "query")
    (ids, rows), error = side(root, found, "database"), {"exact": 1e-5, "fp16": 2e-3, "sq8": 2e-2}
    place = {int(item): row for row, item in enumerate(ids)}
    for rerank, tolerance in error.items():
        config = IndexConfig(factory="IVF16,PQ8x4fs", rerank=rerank, shards=1, nprobe=16, rerank_candidates=200)  # type: ignore[arg-type]
        trained = reuse_or_train(root, rerank, found, config, None)
        filled = build_shards(root, rerank, found, trained, "database", config, (), lambda items: None)
        shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=filled.shards, built=0, updated=0, reused=0)
        params = tune.fn(root, found, found, trained, shards, config).params
        scores, answers = open_searcher(filled.shards, root.file, "cosine", params).search(queries[:50], 5)
        expected = np.array([[rows[place[int(item)]] @ query for item in line] for line, query in zip(answers, queries, strict=False)])
        np.testing.assert_allclose(scores, expected, atol=tolerance)


def test_with_few_items_or_no_queries_nothing_is_compared(root: Root, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the limit it is exact search; without queries the likely winner."""
    assert auto_factory.choose_factory(root, database.tonight(), CONFIG).table == ()
    assert auto_factory.choose_factory(root, database.tonight(), CONFIG).soar_candidate is not None
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 10_000)
    assert auto_factory.choose_factory(root, tonight(database), CONFIG).factory == "Flat"


def test_a_memory_budget_that_nothing_fits_gives_the_smallest(root: Root, database: Database) -> None:
    """And the estimate that says so is in the candidate."""
    tight = CONFIG.model_copy(update={"memory_budget": 10_000})
    chosen = auto_factory.choose_factory(root, tonight(database), tight)
    assert chosen.soar_candidate is not None
    assert not chosen.soar_candidate.spill
    assert chosen.soar_candidate.resident_bytes * ITEMS > 10_000


def test_exact_search_is_not_tuned(root: Root, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recall is 1 whatever few queries can prove."""
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 10_000)
    found = tonight(database)
    trained = reuse_or_train(root, "index", found, CONFIG, None)
    filled = build_shards(root, "index", found, trained, "database", CONFIG, (), lambda items: None)
    shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=filled.shards, built=0, updated=0, reused=0)
    tuned = tune.fn(root, found, found, trained, shards, CONFIG)
    assert (tuned.met, tuned.params.nprobe, tuned.reason) == (None, None, "exact search finds all")
