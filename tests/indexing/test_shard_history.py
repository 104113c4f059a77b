"""Whatever nights came before, an index holds the same; and how its store was cut into parts is not to be seen in it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexmill.configs.models import IndexConfig
from indexmill.storage.embedding_store import concatenate_blocks, open_vectors, open_vectors_by_part
from indexmill.storage.index_records import Shard
from indexmill.storage.root import Root
from tests.indexing.nightly import Database, draw_centers, draw_clustered, make_searcher, read_ids, run_build

DIM = 8
SHARD_ITEMS = 40
CONFIG = IndexConfig.model_validate(
    {
        "factory": "IVF4,Flat",
        "shard_bytes": SHARD_ITEMS * (4 * DIM + 8),
        "rerank": "exact",
        "drift": {"max_changed": 1, "max_imbalance": 99, "max_error_rise": 99, "max_recall_drop": 1},
    }
)
nights = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10), st.integers(0, 60)), min_size=1, max_size=4)


def live_through(database: Database, night: tuple[int, int, int]) -> None:
    """Insert, replace and delete so many items, as far as there are any."""
    inserted, replaced, deleted = night
    centers = draw_centers(database.random, 5, DIM)
    if inserted:
        database.insert(draw_clustered(database.random, centers, inserted))
    if count := min(replaced, len(database.ids)):
        database.replace(database.draw_rows(count), draw_clustered(database.random, centers, count))
    if count := min(deleted, len(database.ids) - 10):
        database.delete(database.draw_rows(count))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(nights=nights)
def test_nights_and_a_build_from_nothing_give_the_same(
    tmp_path_factory: pytest.TempPathFactory, nights: list[tuple[int, int, int]]
) -> None:
    """The same ids, each once, and with all lists visited the same results; the same stored vectors by part and by id."""
    root = Root(tmp_path_factory.mktemp("root"))
    database = Database(root, DIM)
    database.insert(draw_clustered(database.random, draw_centers(database.random, 10, DIM), 100))
    trained, build = run_build(root, "nights", database, CONFIG)
    previous: tuple[Shard, ...] = build.shards
    for night in nights:
        live_through(database, night)
        trained, build = run_build(root, "nights", database, CONFIG, trained, previous)
        previous = build.shards
        assert all(shard.count <= SHARD_ITEMS for shard in build.shards)
    rebuilt = run_build(root, "nothing", database, CONFIG, trained)[1]
    for filled in (build, rebuilt):
        assert sorted(np.concatenate([read_ids(root, shard) for shard in filled.shards]).tolist()) == sorted(database.ids.tolist())
    queries = draw_clustered(database.random, draw_centers(database.random, 5, DIM), 20)
    found, expected = (make_searcher(root, filled, CONFIG, nprobe=4).search(queries, 5) for filled in (build, rebuilt))
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    embeddings = database.make_record()
    with open_vectors(root, embeddings, side="database") as blocks:
        ids, vectors = concatenate_blocks(blocks, DIM)
    with open_vectors_by_part(root, embeddings, side="database") as blocks:
        part_ids, part_vectors = concatenate_blocks(blocks, DIM)
    order = np.argsort(part_ids)
    np.testing.assert_array_equal(part_ids[order], ids)
    np.testing.assert_array_equal(part_vectors[order], vectors)
    root.close()


def test_how_the_store_is_cut_into_parts_does_not_show_in_the_shards(tmp_path: Path) -> None:
    """The same items from one part and from seven: the same keys and the same bytes, from the training on."""
    digests = []
    for name, edges in (("one", [0, 150]), ("seven", [0, 10, 20, 70, 71, 90, 140, 150])):
        root = Root(tmp_path / name)
        source = Database(root, DIM)
        ids = source.random.integers(1, 2**62, 150)
        vectors = draw_clustered(source.random, draw_centers(source.random, 10, DIM), 150)
        for start, end in itertools.pairwise(edges):
            source.insert(vectors[start:end])
        source.ids = ids
        _, build = run_build(root, "index", source, CONFIG)
        digests.append([(shard.key, *(ref.sha256 for ref in shard.files)) for shard in build.shards])
        root.close()
    assert len(digests[0]) == 4
    assert digests[0] == digests[1]
