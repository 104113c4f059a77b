"""`index.factory: auto` through the stages: choose, train, fill, update, tune, search."""

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
from tests.indexing.nightly import Database, draw_centers, draw_clustered, normalize

DIM, ITEMS = 32, 3000
CONFIG = IndexConfig(factory="auto", shards=2, recall_target=0.9)


@pytest.fixture
def database(root: Root, monkeypatch: pytest.MonkeyPatch) -> Database:
    """3,000 clustered unit vectors, too many for exact search by a lowered limit."""
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 1000)
    database = Database(root, DIM)
    database.insert(normalize(draw_clustered(database.random, draw_centers(database.random, 40, DIM), ITEMS)))
    return database


def make_split_record(database: Database) -> EmbeddingSet:
    """Write the items with one in ten of them on the query side, and return their record."""
    embeddings = database.make_record()
    table = pq.read_table(database.root.file(embeddings.items))
    sides = ["query" if item % 10 == 0 else "database" for item in table["item_id"].to_pylist()]
    path = database.root.file(embeddings.items).with_suffix(".sided.parquet")
    table = table.set_column(table.schema.get_field_index("side"), "side", pa.array(sides, pa.string()))
    parquet.write_parquet(path, table.schema, table.to_batches())
    ref, queries = database.root.make_ref(path), sides.count("query")
    update = {"items": ref, "files": (ref, *embeddings.files[1:]), "database": len(sides) - queries, "query": queries, "digest": path.stem}
    return embeddings.model_copy(update=update)


def read_side(root: Root, embeddings: EmbeddingSet, side: Side) -> tuple[np.ndarray, np.ndarray]:
    with open_vectors(root, embeddings, side=side) as blocks:
        return concatenate_blocks(blocks, DIM)


def tune_and_measure_recall(root: Root, embeddings: EmbeddingSet, trained: TrainedIndex, filled: ShardBuild) -> float:
    """Compute recall@10 of the tuned searcher on all queries against brute force."""
    shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=filled.shards, built=0, updated=0, reused=0)
    tuned = tune.fn(root, embeddings, embeddings, trained, shards, CONFIG)
    assert tuned.met
    assert tuned.recall_bound is not None
    assert tuned.recall_bound >= 0.9
    searcher = open_searcher(filled.shards, root.file, CONFIG.metric, tuned.params)
    assert searcher.items == embeddings.database
    (ids, rows), (_, queries) = read_side(root, embeddings, "database"), read_side(root, embeddings, "query")
    exact = ids[faiss.knn(queries, rows, 10, metric=FAISS_METRICS["cosine"])[1]]
    retrieved = searcher.search(queries, 10)[1]
    assert all(len(set(row)) == 10 for row in retrieved.tolist())
    return float(np.mean([len(set(row) & set(expected)) / 10 for row, expected in zip(retrieved.tolist(), exact.tolist(), strict=True)]))


def test_auto_reaches_its_target_in_a_first_build_and_after_an_update(root: Root, database: Database) -> None:
    """The comparison is recorded; small changes update the shards, and every item is still embeddings once."""
    embeddings = make_split_record(database)
    trained = reuse_or_train(root, "index", embeddings, CONFIG, None)
    assert trained.fast_scan
    assert trained.rerank == "exact"
    assert len(trained.choice) == 4
    assert {row["met"] for row in trained.choice} == {True}
    assert trained.choice[0]["spill"] == trained.spill
    filled = build_shards(root, "index", embeddings, trained, CONFIG)
    assert sum(shard.count for shard in filled.shards) == embeddings.database
    assert tune_and_measure_recall(root, embeddings, trained, filled) >= 0.9
    database.delete(database.draw_rows(60))
    database.insert(normalize(draw_clustered(database.random, draw_centers(database.random, 40, DIM), 80)))
    later = make_split_record(database)
    again = reuse_or_train(root, "index", later, CONFIG, trained)
    updated = build_shards(root, "index", later, again, CONFIG, previous=filled.shards)
    assert again.digest == trained.digest
    assert updated.updated == 2
    assert tune_and_measure_recall(root, later, again, updated) >= 0.9


@pytest.mark.slow
def test_vectors_without_principal_directions_are_stored_uncompressed(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """128 equally important directions: codes over two thirds of them miss the target, uncompressed vectors do not.

    The comparison has all five candidates; if the vectors exceed the memory budget, the closest codes are chosen.
    """
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 1000)
    database = Database(root, 128)
    database.insert(normalize(database.random.standard_normal((3000, 128))))
    embeddings = make_split_record(database)
    choice = auto_factory.choose_factory(root, embeddings, IndexConfig(factory="auto", recall_target=0.98))
    assert (choice.factory, choice.rerank, choice.soar_candidate) == ("IVF64,Flat", "none", None)
    assert [row["met"] for row in choice.comparison] == [True, False, False, False, False]
    small = auto_factory.choose_factory(
        root, embeddings, IndexConfig.model_validate({"factory": "auto", "recall_target": 0.98, "memory_budget": "1MB"})
    )
    assert small.soar_candidate is not None
    assert not any(row["met"] for row in small.comparison)


def test_every_kind_of_reranking_scores_with_its_files(root: Root, database: Database) -> None:
    """Scores are those of the stored vectors: exact ones to the last bits, fp16 and sq8 approximately."""
    embeddings = make_split_record(database)
    _, queries = read_side(root, embeddings, "query")
    (ids, rows), tolerances = read_side(root, embeddings, "database"), {"exact": 1e-5, "fp16": 2e-3, "sq8": 2e-2}
    row_of = {int(item): row for row, item in enumerate(ids)}
    for rerank, tolerance in tolerances.items():
        config = IndexConfig(factory="IVF16,PQ8x4fs", rerank=rerank, shards=1, nprobe=16, rerank_candidates=200)  # type: ignore[arg-type]
        trained = reuse_or_train(root, rerank, embeddings, config, None)
        filled = build_shards(root, rerank, embeddings, trained, config)
        shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=filled.shards, built=0, updated=0, reused=0)
        params = tune.fn(root, embeddings, embeddings, trained, shards, config).params
        scores, retrieved = open_searcher(filled.shards, root.file, "cosine", params).search(queries[:50], 5)
        expected = np.array([[rows[row_of[int(item)]] @ query for item in line] for line, query in zip(retrieved, queries, strict=False)])
        np.testing.assert_allclose(scores, expected, atol=tolerance)


def test_few_items_or_no_queries_need_no_comparison(root: Root, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few items get exact search; without queries the likely best candidate is chosen."""
    assert auto_factory.choose_factory(root, database.make_record(), CONFIG).comparison == ()
    assert auto_factory.choose_factory(root, database.make_record(), CONFIG).soar_candidate is not None
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 10_000)
    assert auto_factory.choose_factory(root, make_split_record(database), CONFIG).factory == "Flat"


def test_a_memory_budget_below_all_candidates_gives_the_smallest(root: Root, database: Database) -> None:
    """Its estimated size shows that the budget is exceeded."""
    tight = CONFIG.model_copy(update={"memory_budget": 10_000})
    choice = auto_factory.choose_factory(root, make_split_record(database), tight)
    assert choice.soar_candidate is not None
    assert not choice.soar_candidate.spill
    assert choice.soar_candidate.resident_bytes * ITEMS > 10_000


def test_exact_search_is_not_tuned(root: Root, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its recall is 1, whatever a few queries can prove."""
    monkeypatch.setattr(auto_factory, "FLAT_MAX_ITEMS", 10_000)
    embeddings = make_split_record(database)
    trained = reuse_or_train(root, "index", embeddings, CONFIG, None)
    filled = build_shards(root, "index", embeddings, trained, CONFIG)
    shards = IndexShards(digest="s", files=(), trained=trained.digest, shards=filled.shards, built=0, updated=0, reused=0)
    tuned = tune.fn(root, embeddings, embeddings, trained, shards, CONFIG)
    assert (tuned.met, tuned.params.nprobe, tuned.reason) == (None, None, "exact search needs no tuning")
