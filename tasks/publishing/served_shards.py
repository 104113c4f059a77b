"""Collect the shards of both sides, and merge the rejects of all stages."""

from __future__ import annotations

from indexmill.storage import parquet
from indexmill.storage.digests import json_digest
from indexmill.storage.index_records import Shard
from indexmill.storage.records import FileRef
from indexmill.tasks.evaluation.canary import check_canaries
from indexmill.tasks.indexing.chunk_search import load_chunk_map
from indexmill.tasks.indexing.shard_builder import build_shards
from indexmill.tasks.indexing.shard_store import load_previous_shards, open_searcher
from indexmill.tasks.progress import track
from indexmill.tasks.publishing.candidate import BuildCandidate, ServedShards
from indexmill.tasks.runner import LOCAL_RUNNER, Runner


def build_served_shards(build: BuildCandidate, runner: Runner = LOCAL_RUNNER) -> ServedShards:
    """Collect the database's shards, build the query side's unless only the database is served, and merge the rejects of all stages.

    Raises:
        InputError: The query side's shards do not find their own items. The evaluation has asked the database's.
    """
    query_shards = _build_query_shards(build, runner)
    _check_query_canaries(build, query_shards)
    shards = (*build.shards.shards, *query_shards)
    items = build.index_embeddings
    served_items = items.database + (items.query if any(shard.side == "query" for shard in shards) else 0)
    return ServedShards(shards, _merge_rejects(build), items=served_items)


def _build_query_shards(build: BuildCandidate, runner: Runner) -> tuple[Shard, ...]:
    """Build shards of the query side, about as large as the database's."""
    index_embeddings, config = build.index_embeddings.indexed_vectors, build.config
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
            runner=runner,
        ).shards


def _check_query_canaries(build: BuildCandidate, query_shards: tuple[Shard, ...]) -> None:
    if not query_shards:
        return
    root, indexed, index = build.root, build.index_embeddings, build.config.index
    searcher = open_searcher(query_shards, root.file, index.metric, build.tuned.params, load_chunk_map(root, indexed))
    check_canaries(root, indexed, searcher, seed=index.seed, factory=build.trained.factory, metric=index.metric, side="query")


def _merge_rejects(build: BuildCandidate) -> FileRef:
    """Merge the items that validation rejected with those that have no embedding into one table."""
    root, validated, embeddings = build.root, build.validated, build.embeddings
    if embeddings.rejects is None:
        return validated.rejects
    validation_rejects, encoding_rejects = (parquet.scan_sql(root.file(ref)) for ref in (validated.rejects, embeddings.rejects))
    sql = f"FROM {validation_rejects} UNION ALL BY NAME FROM {encoding_rejects} ORDER BY item_id"
    with root.scratch.staging() as staging:
        parquet.copy_query(sql, staging / "rejects.parquet", temp_dir=root.tmp)
        path = root.dataset(validated.name, "rejects", json_digest([validated.digest, embeddings.digest])) / "rejects.parquet"
        root.commit(staging / "rejects.parquet", path)
    return root.make_ref(path)
