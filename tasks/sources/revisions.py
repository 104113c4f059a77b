"""Which revision a pipeline's source and queries have now. Whether a build has work depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from indexmill.configs.datasets import DatasetConfig
from indexmill.configs.models import OwnQueriesConfig, PipelineConfig
from indexmill.storage.digests import json_digest
from indexmill.storage.root import Root
from indexmill.tasks.sources import open_source
from indexmill.tasks.sources.query_files import open_query_sources


class Revisions(NamedTuple):
    """The revisions of the source and of the queries; "" without queries of one's own."""

    source: str
    queries: str

    @property
    def combined(self) -> str:
        """The revision of both."""
        return combine_revisions(self.source, self.queries)


_revisions: ContextVar[dict[str, Revisions] | None] = ContextVar("revisions", default=None)


@contextmanager
def reading_revisions_once() -> Iterator[None]:
    """Make `read_revisions` remember what it has read until the block ends: a revision may cost a query or a walk over all files."""
    token = _revisions.set({})
    try:
        yield
    finally:
        _revisions.reset(token)


def read_revisions(config: PipelineConfig, root: Root) -> Revisions:
    """Read the current revisions of a pipeline's source and queries."""
    known = _revisions.get()
    own_queries = config.own_queries.model_dump(mode="json") if config.own_queries else None
    key = json_digest([config.dataset.model_dump(mode="json"), own_queries, str(root)])
    if known is not None and key in known:
        return known[key]
    queries = read_query_revision(config.own_queries, root) if config.own_queries else ""
    revisions = Revisions(read_source_revision(config.dataset, root), queries)
    if known is not None:
        known[key] = revisions
    return revisions


def read_source_revision(config: DatasetConfig, root: Root) -> str:
    """Return the source's current revision, which decides whether it must be listed again."""
    return open_source(config, root).compute_revision()


def read_query_revision(config: OwnQueriesConfig, root: Root) -> str:
    """Return the revision of all query files, which decides whether they must be read again."""
    return json_digest({name: source.compute_revision() for name, source in open_query_sources(config, root).items()})


def combine_revisions(source_revision: str, query_revision: str) -> str:
    """Return the revision of a pipeline's source and queries, which decides whether a watched pipeline is built again."""
    return json_digest([source_revision, query_revision]) if query_revision else source_revision
