"""The catalog: a DuckDB file with all builds, derived from the manifests and the metrics history.

It is rebuilt beside the old file and renamed over it, so it is never half written, and it is safe to delete.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from indexmill.storage import parquet
from indexmill.storage.manifests import Manifest
from indexmill.storage.metrics_file import MetricsFile, read_metrics_history
from indexmill.storage.root import Root
from indexmill.storage.snapshots import Snapshots

CREATE_TABLES = """
CREATE TABLE builds (
    index_name VARCHAR, snapshot_id VARCHAR, parent VARCHAR, created_at TIMESTAMPTZ, live BOOLEAN, verdict VARCHAR,
    items BIGINT, database BIGINT, query BIGINT, rejected BIGINT,
    factory VARCHAR, metric VARCHAR, dim INTEGER, fingerprint VARCHAR
);
CREATE TABLE evaluations (
    index_name VARCHAR, snapshot_id VARCHAR, created_at TIMESTAMPTZ, verdict VARCHAR,
    metric VARCHAR, value DOUBLE, low DOUBLE, high DOUBLE
);
CREATE TABLE shards (index_name VARCHAR, snapshot_id VARCHAR, side VARCHAR, number INTEGER, items BIGINT, bytes BIGINT, sha256 VARCHAR);
"""

# Columns of `builds` that are fields of the manifest.
BUILD_FIELDS = (
    *("parent", "created_at", "verdict", "items", "database", "query", "rejected"),
    *("factory", "metric", "dim", "fingerprint"),
)


def rebuild(root: Root) -> int:
    """Rebuild the catalog from the manifests and return the number of snapshots in it."""
    manifests = [
        (manifest, manifest.snapshot_id == snapshots.get_live_id())
        for name in root.list_indexes()
        for snapshots in [Snapshots(root, name)]
        for manifest in snapshots.read_manifests()
    ]
    with root.replace_atomically(root.catalog) as temporary, _connect(temporary) as connection:
        connection.execute(CREATE_TABLES)
        for manifest, live in manifests:
            _insert_build(connection, manifest, live)
        for name in sorted({manifest.name for manifest, _ in manifests}):
            for metrics_file in read_metrics_history(root, name):
                _insert_metrics(connection, metrics_file)
        _create_views(connection, root, [manifest for manifest, _ in manifests])
    return len(manifests)


def list_builds(root: Root) -> list[dict[str, object]]:
    """Return the rows of the table `builds`, by index and snapshot."""
    with _connect(root.catalog, read_only=True) as connection:
        rows = connection.execute("SELECT * REPLACE (created_at::VARCHAR AS created_at) FROM builds ORDER BY index_name, snapshot_id")
        names = [column[0] for column in rows.description]
        return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def find_catalog_damage(root: Root) -> str:
    """Return why the catalog cannot be read; empty when it can be, or does not exist. `rebuild` recreates it."""
    if not root.catalog.exists():
        return ""
    try:
        list_builds(root)
    except duckdb.Error as error:
        return str(error).splitlines()[0]
    return ""


@contextmanager
def _connect(path: Path, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database. DuckDB takes what follows `?` in a path for parameters, and a backslash for a slash: with one of
    them, a copy elsewhere is opened.
    """
    with ExitStack() as stack:
        opened = path
        if set("?\\") & set(str(path)):
            opened = Path(stack.enter_context(TemporaryDirectory(prefix="indexmill-"))) / path.name
            if path.exists():
                shutil.copyfile(path, opened)
        with closing(duckdb.connect(str(opened), read_only=read_only)) as connection:
            yield connection
        if opened != path and not read_only:
            shutil.copyfile(opened, path)


def _insert_build(connection: duckdb.DuckDBPyConnection, manifest: Manifest, live: bool) -> None:
    build = {
        "index_name": manifest.name,
        "snapshot_id": manifest.snapshot_id,
        "live": live,
        **{name: getattr(manifest, name) for name in BUILD_FIELDS},
    }
    _insert(connection, "builds", build)
    for shard in manifest.shards:
        row = {"side": shard.side, "number": shard.number, "items": shard.count, "bytes": shard.index.size, "sha256": shard.index.sha256}
        _insert(connection, "shards", {"index_name": manifest.name, "snapshot_id": manifest.snapshot_id, **row})


def _insert_metrics(connection: duckdb.DuckDBPyConnection, metrics_file: MetricsFile) -> None:
    build = {
        "index_name": metrics_file.name,
        "snapshot_id": metrics_file.snapshot_id,
        "created_at": metrics_file.created_at,
        "verdict": metrics_file.verdict,
    }
    for metric, value in metrics_file.metrics.items():
        low, high = metrics_file.intervals.get(metric, (None, None))
        _insert(connection, "evaluations", {**build, "metric": metric, "value": value, "low": low, "high": high})


def _insert(connection: duckdb.DuckDBPyConnection, table: str, row: dict[str, object]) -> None:
    placeholders = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({placeholders})", list(row.values()))


def _create_views(connection: duckdb.DuckDBPyConnection, root: Root, manifests: list[Manifest]) -> None:
    tables = [Snapshots(root, manifest.name).get_path(manifest.snapshot_id) / "items.parquet" for manifest in manifests]
    if items := [path for path in tables if path.exists()]:
        connection.execute(
            "CREATE VIEW items AS SELECT *, split_part(filename, '/', -4) AS index_name, split_part(filename, '/', -2) AS snapshot_id "
            f"FROM {parquet.scan_sql(*items, options='filename=true, union_by_name=true')}"
        )
    for store in sorted((root.path / "embeddings").glob("*")):
        if parts := sorted(store.glob("part-*.parquet")):
            connection.execute(f'CREATE VIEW "embeddings_{store.name}" AS SELECT * FROM {parquet.scan_sql(*parts)}')
