"""A Qdrant collection. Every snapshot gets a collection of its own, `NAME-SNAPSHOT`, and the alias NAME is switched to it.

Qdrant has no transaction over several requests, so all rows are written every time; the switch of the alias is atomic.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from indexmill.configs.exports import ExportConfig
from indexmill.storage.errors import ExportFailed
from indexmill.storage.urls import redact
from indexmill.tasks.exports.base import ExportCounts, import_client, translate_errors
from indexmill.tasks.exports.rows import SnapshotRows, get_vectors
from indexmill.tasks.progress import Advance
from indexmill.tasks.retry import RetryPolicy, with_retries

DISTANCES = {"cosine": "Cosine", "ip": "Dot", "l2": "Euclid"}
POINTS_PER_REQUEST = 256
TIMEOUT_SECONDS = 60
API_KEY_VARIABLE = "QDRANT_API_KEY"


class QdrantTarget:
    """One alias of a Qdrant server, or of a folder in Qdrant's local mode."""

    def __init__(self, client: Any, alias: str, where: str, transient: tuple[type[Exception], ...]) -> None:
        self._client, self._alias, self._where, self._transient = client, alias, where, transient

    def find_snapshot_id(self) -> str | None:
        """Return the snapshot of the collection that the alias names."""
        collection = self._find_collection()
        return collection.removeprefix(f"{self._alias}-") if collection else None

    def write(self, rows: SnapshotRows, advance: Advance) -> ExportCounts:
        """Fill a new collection, switch the alias, and delete the old collection."""
        from qdrant_client import models

        manifest, previous = rows.manifest, self._find_collection()
        collection = f"{self._alias}-{manifest.snapshot_id}"
        self._client.delete_collection(collection)  # what an interrupted export left
        vectors = models.VectorParams(size=manifest.dim, distance=models.Distance(DISTANCES[manifest.metric]))
        self._client.create_collection(collection, vectors_config=vectors)
        for batch in rows.read():
            for start in range(0, batch.num_rows, POINTS_PER_REQUEST):
                self._upsert(collection, batch.slice(start, POINTS_PER_REQUEST))
            advance(batch.num_rows)
        if (count := self._client.count(collection, exact=True).count) != rows.count:
            raise ExportFailed("the collection is not complete", where=self._where, expected=f"{rows.count} points", got=f"{count}")
        self._switch_alias(collection, previous)
        return ExportCounts(rows.count)

    def _find_collection(self) -> str | None:
        aliases = self._client.get_aliases().aliases
        return next((entry.collection_name for entry in aliases if entry.alias_name == self._alias), None)

    def _upsert(self, collection: str, batch: pa.RecordBatch) -> None:
        from qdrant_client import models

        rows = batch.drop_columns(["embedding"]).to_pylist()
        payloads = [{name: value for name, value in row.items() if value is not None} for row in rows]
        points = models.Batch(ids=batch.column("item_id").to_pylist(), vectors=get_vectors(batch).tolist(), payloads=payloads)
        call = partial(self._client.upsert, collection, points=points, wait=True)
        with_retries(call, RetryPolicy(), where=self._where, transient_errors=self._transient)

    def _switch_alias(self, collection: str, previous: str | None) -> None:
        from qdrant_client import models

        create = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=self._alias))
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=self._alias))
        self._client.update_collection_aliases([delete, create] if previous else [create])  # one request is atomic
        if previous and previous != collection and previous.startswith(f"{self._alias}-"):
            self._client.delete_collection(previous)


@contextmanager
def open_target(config: ExportConfig, table: str) -> Iterator[QdrantTarget]:
    """Connect to a server, or open a directory in Qdrant's local mode."""
    qdrant_client = import_client("qdrant_client", "qdrant")
    exceptions = import_client("qdrant_client.http.exceptions", "qdrant")
    transient = (exceptions.ResponseHandlingException,)  # no connection, or a time-out
    with translate_errors(config, exceptions.ApiException, RuntimeError, ValueError, transient=transient):
        if config.is_url:
            client = qdrant_client.QdrantClient(config.to, api_key=os.environ.get(API_KEY_VARIABLE), timeout=TIMEOUT_SECONDS)
        else:
            client = qdrant_client.QdrantClient(path=config.to)
        try:
            yield QdrantTarget(client, table, redact(config.to), transient)
        finally:
            client.close()
