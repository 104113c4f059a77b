"""What is served beside the database side, and what is not served at all."""

from __future__ import annotations

from indexmill.storage import tables
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.index_records import Shard
from indexmill.storage.records import FileRef
from indexmill.tasks.indexes.pool import earlier
from indexmill.tasks.indexes.shards import fill_shards
from indexmill.tasks.progress import track
from indexmill.tasks.publishing.build import Build, Served


def served(build: Build) -> Served:
    """The database's shards, the query side's unless only the database is served, and the rejects of all stages."""
    return Served((*build.shards.shards, *_query_side(build)), _all_rejects(build))


def _query_side(build: Build) -> tuple[Shard, ...]:
    """The query side as shards about as large as the database's."""
    held, config = build.held, build.config
    if config.publish.serve == "database" or not held.query:
        return ()
    previous = earlier(build.root, config.name, build.live, "query", config.index.shards)
    share = held.query / held.database
    with track("adding the query side", held.query) as advance:
        return fill_shards(build.root, config.name, held, build.trained, "query", config.index, previous, advance, share=share).shards


def _all_rejects(build: Build) -> FileRef:
    """The items that validation set aside, and those that have no vector, in one table."""
    root, validated, embeddings = build.root, build.validated, build.embeddings
    if embeddings.rejects is None:
        return validated.rejects
    found = [tables.parquet(root.file(ref)) for ref in (validated.rejects, embeddings.rejects)]
    with root.scratch.staging() as staging:
        tables.copy(f"FROM {found[0]} UNION ALL BY NAME FROM {found[1]} ORDER BY item_id", staging / "rejects.parquet", spill=root.tmp)
        target = root.dataset(validated.name, "rejects", json_digest([validated.digest, embeddings.digest])) / "rejects.parquet"
        commit(staging / "rejects.parquet", target)
    return root.ref(target)
