"""A shard reads the parts of the embedding store that hold its vectors, and no other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexmill.configs.models import IndexConfig
from indexmill.storage.digests import content_digest
from indexmill.storage.records import EmbeddingSet
from indexmill.storage.root import Root
from indexmill.tasks.indexing.shard_builder import BuildContext, ShardPlan, build_shards, plan_shards
from indexmill.tasks.indexing.training import train_index
from tests.indexing.nightly import Database, draw_centers, draw_clustered

DIM = 8
CONFIG = IndexConfig(factory="IVF4,Flat", shards=4)


@pytest.fixture
def database(root: Root) -> Database:
    """1,000 contents in the order of their digests, as encoding commits them: ten parts of 100."""
    database = Database(root, DIM)
    vectors = draw_clustered(database.random, draw_centers(database.random, 20, DIM), 1000)
    order = np.argsort([content_digest(vector.tobytes()) for vector in vectors])
    for start in range(0, 1000, 100):
        database.insert(vectors[order[start : start + 100]])
    return database


def plan(root: Root, embeddings: EmbeddingSet, folder: Path, config: IndexConfig = CONFIG) -> list[ShardPlan]:
    """Plan a first build, whose shards are in no pool."""
    folder.mkdir()
    trained = train_index(root, "planned", embeddings, config, "")
    return plan_shards(BuildContext(root, "planned", embeddings, trained, "database"), config, folder)


def overwrite_parts(root: Root, kept: set[str]) -> None:
    """Fill all parts but these with zeros; their sizes stay, so that their keys count."""
    for part in (root.path / "embeddings").rglob("part-*.parquet"):
        if part.stem not in kept:
            part.write_bytes(bytes(part.stat().st_size))


def name_parts(shard: ShardPlan) -> list[str]:
    return [Path(ref.path).stem for ref in shard.parts]


def test_shards_of_a_first_build_share_only_the_parts_at_their_edges(root: Root, database: Database, tmp_path: Path) -> None:
    """By hand: 250 of 1,000 contents per shard are parts 0 to 2, 2 to 4, 5 to 7 and 7 to 9, so 12 of 10 parts are read:
    1.2 times the store. Five shards of 200 read each part once.
    """
    embeddings = database.make_record()
    plans = plan(root, embeddings, tmp_path / "four")
    numbers = [[0, 1, 2], [2, 3, 4], [5, 6, 7], [7, 8, 9]]
    assert [name_parts(shard) for shard in plans] == [[f"part-{number:05d}" for number in group] for group in numbers]
    assert all(shard.added_parts == shard.parts for shard in plans)
    sizes = {ref.path: ref.size for ref in embeddings.files}
    fetched = sum(ref.size for shard in plans for ref in shard.parts)
    store = sum(size for path, size in sizes.items() if "/part-" in path)
    assert 1 < fetched / store < 1.5
    five = plan(root, embeddings, tmp_path / "five", CONFIG.model_copy(update={"shards": 5}))
    assert sorted(name for shard in five for name in name_parts(shard)) == [f"part-{number:05d}" for number in range(10)]


def test_filling_a_shard_reads_no_other_part(root: Root, database: Database, tmp_path: Path) -> None:
    """A shard is lost, and all parts but the three that it needs are full of zeros: it is built, byte by byte as before."""
    embeddings = database.make_record()
    trained = train_index(root, "index", embeddings, CONFIG, "")
    first = build_shards(root, "index", embeddings, trained, CONFIG)
    lost = first.shards[1]
    for path in (root.shard_path("index", lost.key, "json"), root.file(lost.index)):
        path.unlink()
    overwrite_parts(root, {"part-00002", "part-00003", "part-00004"})
    again = build_shards(root, "index", embeddings, trained, CONFIG)
    assert (again.built, again.reused) == (1, 3)
    assert again.shards == first.shards


def test_a_damaged_shard_finds_its_parts_when_it_is_built(root: Root, database: Database) -> None:
    """Its record was there when the build was planned."""
    embeddings = database.make_record()
    trained = train_index(root, "index", embeddings, CONFIG, "")
    first = build_shards(root, "index", embeddings, trained, CONFIG)
    root.file(first.shards[3].index).write_bytes(b"damaged")
    overwrite_parts(root, {"part-00007", "part-00008", "part-00009"})
    again = build_shards(root, "index", embeddings, trained, CONFIG)
    assert (again.built, again.shards) == (1, first.shards)


def test_an_update_reads_the_newest_part_only(root: Root, database: Database) -> None:
    """A night of 20 new and 10 replaced items is in one part, whatever shards they belong to; a deletion reads nothing."""
    embeddings = database.make_record()
    trained = train_index(root, "index", embeddings, CONFIG, "")
    first = build_shards(root, "index", embeddings, trained, CONFIG)
    changed = draw_clustered(database.random, draw_centers(database.random, 2, DIM), 30)
    rows = database.draw_rows(10)
    database.insert(changed)
    database.digests[rows], database.vectors[rows] = database.digests[-10:], changed[-10:]
    database.delete(np.arange(len(database.ids) - 10, len(database.ids)))
    tonight = database.make_record()
    overwrite_parts(root, {"part-00010"})
    second = build_shards(root, "index", tonight, trained, CONFIG, previous=first.shards)
    assert second.updated + second.reused == 4
    assert second.updated >= 1
    assert sum(shard.count for shard in second.shards) == 1020
    database.delete(np.arange(5))
    overwrite_parts(root, set())
    third = build_shards(root, "index", database.make_record(), trained, CONFIG, previous=second.shards)
    assert (third.built, sum(shard.count for shard in third.shards)) == (0, 1015)
