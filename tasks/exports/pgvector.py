"""A PostgreSQL table with pgvector and an HNSW index. After the first export, only the rows that changed are written.

Each export is one transaction, so readers find all of the old snapshot or all of the new one, and an interrupted export
leaves no trace. The table's comment says which snapshot it holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from indexmill.configs.exports import ExportConfig
from indexmill.storage import parquet
from indexmill.storage.errors import InputError
from indexmill.storage.urls import redact
from indexmill.tasks.exports.base import ExportCounts, import_client, translate_errors
from indexmill.tasks.exports.changes import STORED_SCHEMA, find_changes
from indexmill.tasks.exports.rows import SnapshotRows, get_vectors
from indexmill.tasks.progress import Advance

OPERATOR_CLASSES = {"cosine": "vector_cosine_ops", "ip": "vector_ip_ops", "l2": "vector_l2_ops"}
MAX_INDEXED_DIM = 2000  # of pgvector's type `vector`
CONNECT_SECONDS = 10


class PgvectorTarget:
    """One table of a PostgreSQL database."""

    def __init__(self, connection: Any, table: str, where: str) -> None:
        from psycopg import sql

        self._connection, self._where, self._sql = connection, where, sql
        self._table, self._name = sql.Identifier(table), table

    def find_snapshot_id(self) -> str | None:
        """Return the snapshot in the table's comment."""
        description = self._read_description()
        return description["snapshot_id"] if description else None

    def write(self, rows: SnapshotRows, advance: Advance) -> ExportCounts:
        """Write the rows that changed; a new table if encoder, dimensions, metric or columns have changed."""
        description = {
            "snapshot_id": rows.manifest.snapshot_id,
            "fingerprint": rows.manifest.fingerprint,
            "dim": rows.manifest.dim,
            "metric": rows.manifest.metric,
            "columns": rows.schema.names,
        }
        with self._connection.transaction():
            # One export of this table at a time, even from different roots.
            self._connection.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"indexmill export {self._name}"])
            before = self._read_description()
            is_same_table = before is not None and before | {"snapshot_id": ""} == description | {"snapshot_id": ""}
            counts = self._update(rows, advance) if is_same_table else self._replace(rows, advance)
            comment = self._sql.Literal(json.dumps(description))
            self._connection.execute(self._sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table, comment))
        return counts

    def _read_description(self) -> dict[str, Any] | None:
        """Read the table's comment; None if there is no such table. Raises InputError for a table of someone else."""
        name = self._sql.Identifier(self._name).as_string(self._connection)
        exists, comment = self._connection.execute(
            "SELECT to_regclass(%s) IS NOT NULL, obj_description(to_regclass(%s))", [name, name]
        ).fetchone()
        if not exists:
            return None
        try:
            values = json.loads(comment or "")
            return {key: values[key] for key in ("snapshot_id", "fingerprint", "dim", "metric", "columns")}
        except (ValueError, TypeError, KeyError):
            raise InputError(
                "this table was not written by an export, so it is not replaced",
                where=f"{self._where}, table {self._name}",
                next_step="choose another with --table or publish.export[].table",
            ) from None

    def _replace(self, rows: SnapshotRows, advance: Advance) -> ExportCounts:
        """Fill and index a new table, and then give it the name. Readers of the old one are blocked only at the end."""
        sql, execute = self._sql, self._connection.execute
        new = sql.Identifier(f"{self._name[:58]}_new")  # names have at most 63 bytes
        execute(sql.SQL("CREATE TABLE {} ({})").format(new, _define_columns(sql, rows)))
        self._copy(new, rows.schema, rows.read(), advance)
        execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (item_id)").format(new))
        if rows.manifest.dim <= MAX_INDEXED_DIM:
            operators = sql.SQL(OPERATOR_CLASSES[rows.manifest.metric])
            execute(sql.SQL("CREATE INDEX ON {} USING hnsw (embedding {})").format(new, operators))
        execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._table))
        execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(new, self._table))
        return ExportCounts(rows.count)

    def _update(self, rows: SnapshotRows, advance: Advance) -> ExportCounts:
        sql, execute = self._sql, self._connection.execute
        changes = find_changes(rows, self._read_stored())
        execute("CREATE TEMPORARY TABLE indexmill_removed (item_id bigint) ON COMMIT DROP")
        execute(sql.SQL("CREATE TEMPORARY TABLE indexmill_written (LIKE {}) ON COMMIT DROP").format(self._table))
        ids = pa.schema([rows.schema.field("item_id")])
        self._copy(sql.Identifier("indexmill_removed"), ids, parquet.read_batches(changes.removed))
        self._copy(sql.Identifier("indexmill_written"), rows.schema, rows.read(changes.written), advance)
        execute(sql.SQL("DELETE FROM {} USING indexmill_removed r WHERE {}.item_id = r.item_id").format(self._table, self._table))
        names = [sql.Identifier(name) for name in rows.schema.names]
        execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM indexmill_written ON CONFLICT (item_id) DO UPDATE SET {}").format(
                self._table,
                sql.SQL(", ").join(names),
                sql.SQL(", ").join(names),
                sql.SQL(", ").join(sql.SQL("{} = excluded.{}").format(name, name) for name in names),
            )
        )
        return ExportCounts(changes.written_count, changes.removed_count)

    def _read_stored(self) -> Iterator[pa.RecordBatch]:
        """Yield the ids and digests in the table, through a cursor of the server."""
        with self._connection.cursor(name="indexmill_stored") as cursor:
            cursor.execute(self._sql.SQL("SELECT item_id, row_digest FROM {}").format(self._table))
            while stored := cursor.fetchmany(8192):
                yield pa.RecordBatch.from_arrays([pa.array(column) for column in zip(*stored, strict=True)], schema=STORED_SCHEMA)

    def _copy(self, table: Any, schema: pa.Schema, batches: Iterator[pa.RecordBatch], advance: Advance | None = None) -> None:
        """Write batches by COPY in its binary form."""
        names = self._sql.SQL(", ").join(map(self._sql.Identifier, schema.names))
        statement = self._sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, names)
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types([_get_type(field) for field in schema])
            for batch in batches:
                for row in zip(*(_to_values(batch, field) for field in schema), strict=True):
                    copy.write_row(row)
                if advance:
                    advance(batch.num_rows)


@contextmanager
def open_target(config: ExportConfig, table: str) -> Iterator[PgvectorTarget]:
    """Connect, and create the extension if the database lacks it."""
    psycopg = import_client("psycopg", "pgvector")
    register_vector = import_client("pgvector.psycopg", "pgvector").register_vector
    where = redact(config.to)
    with (
        translate_errors(config, psycopg.Error, transient=(psycopg.OperationalError,)),
        psycopg.connect(config.to, connect_timeout=CONNECT_SECONDS, application_name="indexmill", autocommit=True) as connection,
    ):
        try:
            connection.execute("SET client_min_messages = warning; CREATE EXTENSION IF NOT EXISTS vector")
        except psycopg.Error as error:
            raise InputError(
                "the database does not have the extension pgvector, and it cannot be created",
                where=where,
                got=str(error).splitlines()[0],
                next_step="install pgvector on the server, and run CREATE EXTENSION vector as a user who may",
            ) from None
        register_vector(connection)
        yield PgvectorTarget(connection, table, where)


def _define_columns(sql: Any, rows: SnapshotRows) -> Any:
    types = {"int8": "bigint", "text": "text", "vector": f"vector({rows.manifest.dim})"}
    columns = [sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(types[_get_type(field)])) for field in rows.schema]
    return sql.SQL(", ").join(columns)


def _get_type(field: pa.Field) -> str:
    if pa.types.is_fixed_size_list(field.type):
        return "vector"
    return "int8" if pa.types.is_integer(field.type) else "text"


def _to_values(batch: pa.RecordBatch, field: pa.Field) -> Any:
    """The values of a column for psycopg. PostgreSQL's texts cannot hold a NUL."""
    if field.name == "embedding":
        return get_vectors(batch)
    values = batch.column(field.name).to_pylist()
    return [value.replace("\0", "") if isinstance(value, str) else value for value in values]
