"""Collect the shards of both sides, and merge the rejects of all stages."""

from __future__ import annotations

from indexmill.storage import parquet
from indexmill.storage.atomic import commit
from indexmill.storage.digests import json_digest
from indexmill.storage.index_records import Shard
from indexmill.storage.records import FileRef
from indexmill.tasks.indexing.shard_builder import build_shards
from indexmill.tasks.indexing.shard_store import load_previous_shards
from indexmill.tasks.progress import track
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards


def served(build: BuildCandidate) -> ServedShards:
    """The database's shards, the query side's unless only the database is served, and the rejects of all stages."""
    return ServedShards((*build.shards.shards, *_build_query_shards(build)), _merge_rejects(build))


def _build_query_shards(build: BuildCandidate) -> tuple[Shard, ...]:
    """The query side as shards about as large as the database's."""
    index_embeddings, config = build.index_embeddings, build.config
    if config.publish.serve == "database" or not index_embeddings.query:
        return ()
    previous = load_previous_shards(build.root, config.name, build.live, "query", config.index.shards)
    share = index_embeddings.query / index_embeddings.database
    with track("adding the query side", index_embeddings.query) as advance:
        return build_shards(
            build.root,
            config.name,
            index_embeddings,
            build.trained,
            config.index,
            side="query",
            previous=previous,
            advance=advance,
            shards_fraction=share,
        ).shards


def _merge_rejects(build: BuildCandidate) -> FileRef:
    """The items that validation set aside, and those that have no vector, in one table."""
    root, validated, embeddings = build.root, build.validated, build.embeddings
    if embeddings.rejects is None:
        return validated.rejects
    found = [parquet.scan_sql(root.file(ref)) for ref in (validated.rejects, embeddings.rejects)]
    with root.scratch.staging() as staging:
        parquet.copy_query(
            f"FROM {found[0]} UNION ALL BY NAME FROM {found[1]} ORDER BY item_id", staging / "rejects.parquet", temp_dir=root.tmp
        )
        target = root.dataset(validated.name, "rejects", json_digest([validated.digest, embeddings.digest])) / "rejects.parquet"
        commit(staging / "rejects.parquet", target)
    return root.make_ref(target)
