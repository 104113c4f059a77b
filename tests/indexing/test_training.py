"""A training is reused until the data drift from it, with the reason recorded."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from indexmill.configs.models import DriftConfig, IndexConfig
from indexmill.storage.root import Root
from indexmill.tasks.indexing.drift import check_drift, compute_changed_fraction, compute_errors, compute_imbalance, measure_drift
from indexmill.tasks.indexing.shard_store import read_index
from indexmill.tasks.indexing.training import compute_sample_size, reuse_or_train, train_index
from tests.indexing.nightly import Database, draw_centers, draw_clustered

DIM = 16
CONFIG = IndexConfig(factory="IVF8,Flat")


@pytest.fixture
def database(root: Root) -> Database:
    """2,000 vectors around 20 centers."""
    database = Database(root, DIM)
    database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 2000))
    return database


def make_two_list_index() -> faiss.IndexIVFFlat:
    """Two lists, around (1, 0) and (0, 1)."""
    quantizer = faiss.IndexFlatL2(2)
    quantizer.add(np.eye(2, dtype=np.float32))
    index = faiss.IndexIVFFlat(quantizer, 2, 2)
    index.is_trained = True
    return index


def test_imbalance_and_list_error_follow_their_formulas() -> None:
    """Three of four vectors in one list: 2 * (3 * 2 + 0) / (4 * 3) = 1. Squared distances 0, 1, 0 and 4: 5 / 4."""
    sample = np.array([[1, 0], [2, 0], [1, 0], [0, 3]], np.float32)
    assert compute_imbalance(make_two_list_index(), sample) == {"imbalance": pytest.approx(1.0)}
    assert compute_errors(make_two_list_index(), sample) == {"list_error": pytest.approx(1.25)}


def test_each_signal_is_compared_with_its_limit() -> None:
    """New vectors are weighted by their fraction: a tenth of them twice as far away raises the mean error by a tenth."""
    limits = DriftConfig(max_changed=0.5, max_imbalance=1.2, max_error_rise=0.09, max_recall_drop=0.01)
    baseline = {"imbalance": 2.0, "list_error": 0.5, "recall": 0.9}
    signals = {"changed": 0.1, "new": 0.1, "imbalance": 2.2, "list_error": 1.0, "recall": 0.85}
    exceeded, within = check_drift(signals, baseline, limits)
    assert exceeded == ["list error risen by 0.1, at most 0.09"]
    assert within == ["changed 0.1, at most 0.5", "imbalance 1.1 times, at most 1.2", "recall fallen by 0.005, at most 0.01"]
    assert len(check_drift(signals | {"changed": 0.6, "imbalance": 3.0, "recall": 0.5}, baseline, limits).exceeded) == 4


def test_a_training_is_reused_for_the_same_and_for_similar_data(root: Root, database: Database) -> None:
    """Unchanged data give one signal; a tenth more similar data give all signals, within their limits."""
    first = reuse_or_train(root, "index", database.make_record(), CONFIG, None)
    assert first.reason == "the first of this index"
    assert set(first.baseline) == {"imbalance", "list_error", "recall"}
    again = reuse_or_train(root, "index", database.make_record(), CONFIG, first)
    assert (again.digest, again.signals) == (first.digest, {"changed": 0.0})
    database.insert(database.vectors[database.draw_rows(200)] + np.float32(1e-4))
    more = reuse_or_train(root, "index", database.make_record(), CONFIG, again)
    assert more.digest == first.digest
    assert more.reason.startswith("reused: changed 0.0909, at most 0.5; imbalance")
    assert set(more.signals) == {"changed", "new", "imbalance", "list_error", "recall"}


def test_different_data_are_retrained_on(root: Root, database: Database) -> None:
    """A quarter of the database comes from new clusters, which raises the list error."""
    first = reuse_or_train(root, "index", database.make_record(), CONFIG, None)
    database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 700))
    second = reuse_or_train(root, "index", database.make_record(), CONFIG, first)
    assert second.digest != first.digest
    assert second.reason.startswith("retrained: ")
    assert "list error risen" in second.reason
    assert second.signals["list_error"] > 1.3 * first.baseline["list_error"]


def test_changed_is_the_fraction_of_contents_not_shared(root: Root, database: Database) -> None:
    """Of 2,000 contents 500 go and 100 come: 1,500 are shared by sets of 2,000 and 1,600."""
    first = train_index(root, "index", database.make_record(), CONFIG, "")
    database.delete(np.arange(500))
    database.insert(draw_clustered(database.random, draw_centers(database.random, 2, DIM), 100))
    assert compute_changed_fraction(root, database.make_record(), first) == pytest.approx(0.25)


@pytest.mark.parametrize(("key", "value"), [("factory", "IVF9,Flat"), ("seed", 7), ("metric", "l2"), ("train_points_per_list", 70)])
def test_a_changed_setting_causes_retraining_and_is_named(key: str, value: object, root: Root, database: Database) -> None:
    """The reason names the key and its previous value."""
    first = reuse_or_train(root, "index", database.make_record(), CONFIG, None)
    second = reuse_or_train(root, "index", database.make_record(), CONFIG.model_copy(update={key: value}), first)
    assert second.reason == f"retrained: index.{key} was {getattr(CONFIG, key)}"
    assert second.digest != first.digest


def test_a_damaged_training_is_never_reused(root: Root, database: Database) -> None:
    """Its file differs from the digest in its record."""
    first = reuse_or_train(root, "index", database.make_record(), CONFIG, None)
    path = root.file(first.index)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    second = reuse_or_train(root, "index", database.make_record(), CONFIG, first)
    assert "SHA-256" in second.reason
    assert read_index(root.file(second.index), second.index).is_trained


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_an_index_without_training_is_the_same_for_all_data(factory: str, root: Root, database: Database) -> None:
    """Shards of such an index depend on their rows alone."""
    config = IndexConfig(factory=factory)
    first = reuse_or_train(root, "index", database.make_record(), config, None)
    database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 5000))
    second = reuse_or_train(root, "index", database.make_record(), config, first)
    assert (first.reason, first.sampled, second) == ("not needed by this index", 0, first)


@pytest.mark.parametrize(
    "factory",
    [
        pytest.param("PQ8x4", marks=pytest.mark.slow),
        "SQ8",
        pytest.param("OPQ8,IVF8,PQ8x4", marks=pytest.mark.slow),
        "IVF8,RaBitQ",
        pytest.param("HNSW8_SQ8", marks=pytest.mark.slow),
    ],
)
def test_signals_depend_on_the_family(factory: str, root: Root, database: Database) -> None:
    """Lists have an imbalance and a list error, lossy codes a code error; every family has recall."""
    config = IndexConfig(factory=factory)
    first = train_index(root, "index", database.make_record(), config, "")
    assert 0 < first.baseline["recall"] <= 1
    assert ("imbalance" in first.baseline) == ("list_error" in first.baseline) == ("IVF" in factory)
    database.insert(draw_clustered(database.random, draw_centers(database.random, 20, DIM), 300))
    signals = measure_drift(root, database.make_record(), first, read_index(root.file(first.index), first.index), config)
    assert signals.keys() == first.baseline.keys() | {"changed", "new"}


def test_the_sample_size_depends_on_lists_and_memory() -> None:
    """64 per list, or as many as train_memory holds three times over, and never fewer than the lists."""
    config = IndexConfig(factory="IVF1024,Flat")
    assert compute_sample_size(config, 384) == 65_536
    assert compute_sample_size(config.model_copy(update={"train_memory": 46_080_000}), 384) == 10_000
    assert compute_sample_size(config.model_copy(update={"train_memory": 1_000_000}), 384) == 1024
    assert compute_sample_size(IndexConfig(factory="IVF50,Flat"), 384) == 10_000
