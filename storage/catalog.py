"""The catalog: what people ask about all builds, as a DuckDB file made from the manifests and the history of figures.

It holds no truth of its own. It is made anew beside the old one and renamed over it, so it is never half written, and deleting it
costs nothing.
"""

from __future__ import annotations

import duckdb

from indexmill.storage import parquet
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile, read_metrics_history
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

CREATE_TABLES = """
CREATE TABLE builds (index_name VARCHAR, snapshot_id VARCHAR, parent VARCHAR, created_at TIMESTAMPTZ, live BOOLEAN, verdict VARCHAR,
                     items BIGINT,
                     database BIGINT, query BIGINT, rejected BIGINT, factory VARCHAR, metric VARCHAR, dim INTEGER, fingerprint VARCHAR);
CREATE TABLE evaluations (index_name VARCHAR, snapshot_id VARCHAR, created_at TIMESTAMPTZ, verdict VARCHAR, measure VARCHAR,
                          value DOUBLE, low DOUBLE, high DOUBLE);
CREATE TABLE shards (index_name VARCHAR, snapshot_id VARCHAR, side VARCHAR, number INTEGER, items BIGINT, bytes BIGINT, sha256 VARCHAR);
"""


def rebuild(root: Root) -> int:
    """Make the catalog from the manifests; the number of snapshots in it."""
    manifests = [
        (manifest, manifest.snapshot_id == snapshots.get_live_id())
        for folder in sorted((root.path / "indexes").glob("*"))
        for snapshots in [Snapshots(root, folder.name)]
        for manifest in snapshots.read_manifests()
    ]
    with root.replace_atomically(root.catalog) as temporary:
        connection = duckdb.connect(str(temporary))
        try:
            connection.execute(CREATE_TABLES)
            for manifest, live in manifests:
                _insert_build(connection, manifest, live)
            for name in sorted({manifest.name for manifest, _ in manifests}):
                for figures in read_metrics_history(root, name):
                    _insert_metrics(connection, figures)
            _create_views(connection, root, [manifest for manifest, _ in manifests])
        finally:
            connection.close()
    return len(manifests)


def find_catalog_damage(root: Root) -> str:
    """Why the catalog cannot be read; empty when it can, or is not there. Nothing is lost with it: `rebuild` makes it anew."""
    if not root.catalog.exists():
        return ""
    try:
        list_builds(root)
    except duckdb.Error as problem:
        return str(problem).splitlines()[0]
    return ""


def _insert_build(connection: duckdb.DuckDBPyConnection, manifest: Manifest, live: bool) -> None:
    name = (manifest.name, manifest.snapshot_id)
    counts = (manifest.items, manifest.database, manifest.query, manifest.rejected)
    made = (manifest.factory, manifest.metric, manifest.dim, manifest.fingerprint)
    build = (*name, manifest.parent, manifest.created_at, live, manifest.verdict, *counts, *made)
    connection.execute("INSERT INTO builds VALUES (" + ", ".join("?" * len(build)) + ")", build)
    for shard in manifest.shards:
        row = (*name, shard.side, shard.number, shard.count, shard.index.size, shard.index.sha256)
        connection.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _insert_metrics(connection: duckdb.DuckDBPyConnection, figures: MetricsFile) -> None:
    told = (figures.name, figures.snapshot_id, figures.created_at, figures.verdict)
    for measure, value in figures.metrics.items():
        low, high = figures.intervals.get(measure, (None, None))
        connection.execute("INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*told, measure, value, low, high))


def _create_views(connection: duckdb.DuckDBPyConnection, root: Root, manifests: list[Manifest]) -> None:
    items = [Snapshots(root, manifest.name).get_path(manifest.snapshot_id) / "items.parquet" for manifest in manifests]
    if items := [path for path in items if path.exists()]:
        connection.execute(
            "CREATE VIEW items AS SELECT *, split_part(filename, '/', -4) AS index_name, split_part(filename, '/', -2) AS snapshot_id "
            f"FROM {parquet.scan_sql(*items, options='filename=true, union_by_name=true')}"
        )
    for store in sorted((root.path / "embeddings").glob("*")):
        if parts := sorted(store.glob("part-*.parquet")):
            connection.execute(f'CREATE VIEW "embeddings_{store.name}" AS SELECT * FROM {parquet.scan_sql(*parts)}')


def list_builds(root: Root) -> list[dict[str, object]]:
    """The rows of `list_builds`, by index and snapshot."""
    connection = duckdb.connect(str(root.catalog), read_only=True)
    try:
        rows = connection.execute("SELECT * REPLACE (created_at::VARCHAR AS created_at) FROM builds ORDER BY index_name, snapshot_id")
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]
    finally:
        connection.close()
