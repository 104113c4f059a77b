"""Read the rows of a query in batches, in a transaction that cannot write.

PostgreSQL, MySQL, MariaDB and SQLite are read through SQLAlchemy, with a cursor on the server where there is one; DuckDB
through its own library. DuckDB's extensions for other databases are not used: they are downloaded at run time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from indexmill.configs.datasets import SqlDatasetConfig
from indexmill.storage.errors import InputError, SourceUnreachable

DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
CONNECT_SECONDS = 10
# What PostgreSQL says when another attempt would fail in the same way.
REFUSALS = ("password", "authentication", "access denied", "does not exist", "not permitted")
# MySQL's errors that another attempt may not meet, beside those of the client, from 2000 on: too many connections, a server that
# shuts down, lost packets, locks, and a connection that was killed.
MYSQL_CLIENT_ERRORS = range(2000, 3000)
MYSQL_TRANSIENT_ERRORS = frozenset({1040, 1053, 1158, 1159, 1160, 1161, 1203, 1205, 1213, 1927})
# What PostgreSQL, MariaDB and MySQL say when they have ended a query that took too long.
TIMEOUTS = ("statement timeout", "max_statement_time exceeded", "maximum statement execution time exceeded")


@dataclass
class ResultBatch:
    """Some rows of a result, with the names of their columns."""

    columns: list[str]
    rows: list[tuple[Any, ...]]


class _NoSelectError(Exception):
    """A query gives no rows, or is more than one statement."""


class SqlReader:
    """Runs queries on one database. Every query has its own connection and transaction.

    Args:
        config: The database, its credentials' variables, and the time limit.
    """

    def __init__(self, config: SqlDatasetConfig) -> None:
        self._config = config
        self._password = os.environ.get(config.password_variable, "")
        self._url = sa.make_url(config.url)
        self._dialect = self._url.drivername
        if (path := self._url.database) and self._dialect in ("sqlite", "duckdb") and not Path(path).is_file():
            raise InputError(
                "the database does not exist", where="dataset.url", got=f"no file {Path(path).absolute()}", next_step="correct dataset.url"
            )
        if (driver := DRIVERS.get(self._dialect)) and find_spec(driver) is None:
            raise InputError(
                f"the driver of {self._dialect} is not installed",
                where="dataset.url",
                expected=f"the Python package {driver}",
                next_step="pip install 'indexmill[sql]'",
            )

    def read(self, query: str, *, batch_rows: int, setting: str = "dataset.query") -> Iterator[ResultBatch]:
        """Yield the result of a query in batches, at least one, which may be empty.

        Args:
            query: One SELECT.
            batch_rows: The rows of a batch.
            setting: The config key of the query, for errors.

        Raises:
            InputError: The query is invalid, writes or takes too long, or the database refuses the credentials.
            SourceUnreachable: The database does not answer.
        """
        read = self._read_duckdb if self._dialect == "duckdb" else self._read_sqlalchemy
        with self._translate(setting), self._limit_time(setting) as register:
            try:
                yield from read(query, batch_rows, register)
            except _NoSelectError:
                raise InputError(
                    "the query cannot be used",
                    where=setting,
                    expected="one SELECT",
                    got=" ".join(query.split())[:100],
                    next_step=f"correct {setting}",
                ) from None

    def _read_duckdb(self, query: str, batch_rows: int, register: Callable[[Callable[[], object]], None]) -> Iterator[ResultBatch]:
        with duckdb.connect(self._url.database or ":memory:", read_only=bool(self._url.database)) as connection:
            statements = connection.extract_statements(query)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise _NoSelectError
            register(connection.interrupt)
            result = connection.execute(statements[0])
            columns = [column[0] for column in result.description]
            batch = result.fetchmany(batch_rows)
            yield ResultBatch(columns, batch)
            while batch := result.fetchmany(batch_rows):
                yield ResultBatch(columns, batch)

    def _read_sqlalchemy(self, query: str, batch_rows: int, register: Callable[[Callable[[], object]], None]) -> Iterator[ResultBatch]:
        engine = sa.create_engine(self._build_url(), poolclass=sa.NullPool, connect_args=self._get_connect_args(), hide_parameters=True)
        try:
            with engine.connect() as connection:
                self._forbid_writes(connection)
                driver: Any = connection.connection.driver_connection
                if self._dialect == "sqlite":  # it stores any bytes as text; a row with such a text is one reject
                    driver.text_factory = lambda content: content.decode(errors="surrogateescape")
                # PyMySQL cannot be interrupted by another thread; the server ends the query.
                cancel = {"sqlite": "interrupt", "postgresql": "cancel_safe"}.get(self._dialect)
                register(getattr(driver, cancel) if cancel else lambda: None)
                # A colon is no parameter here, as in ::text or '12:30'.
                statement = sa.text(query.replace(":", r"\:")).execution_options(yield_per=batch_rows)
                result = connection.execute(statement)
                if not result.returns_rows:
                    raise _NoSelectError
                columns = list(result.keys())
                is_empty = True
                for batch in result.partitions():
                    is_empty = False
                    yield ResultBatch(columns, [tuple(row) for row in batch])
                if is_empty:
                    yield ResultBatch(columns, [])
        finally:
            engine.dispose()

    def _build_url(self) -> sa.URL:
        if self._dialect == "sqlite":
            # SQLite opens the file without the right to write.
            return sa.URL.create(
                "sqlite", database=f"file:{Path(self._url.database or '').absolute()}", query={"mode": "ro", "uri": "true"}
            )
        user = os.environ.get(self._config.user_variable) or self._url.username
        return self._url.set(drivername=f"{self._dialect}+{DRIVERS[self._dialect]}", username=user, password=self._password or None)

    def _get_connect_args(self) -> dict[str, Any]:
        match self._dialect:
            case "sqlite":
                return {}
            case "postgresql":
                return {"connect_timeout": CONNECT_SECONDS}
            case _:
                return {"connect_timeout": CONNECT_SECONDS, "read_timeout": self._config.timeout_s + CONNECT_SECONDS}

    def _forbid_writes(self, connection: sa.Connection) -> None:
        """Make the transaction read-only, and let the server end a statement that takes too long."""
        milliseconds = int(self._config.timeout_s * 1000)
        match self._dialect:
            case "postgresql":
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
            case "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            case "mysql" | "mariadb":
                is_mariadb = getattr(connection.dialect, "is_mariadb", False)
                limit = f"max_statement_time = {self._config.timeout_s:g}" if is_mariadb else f"max_execution_time = {milliseconds}"
                connection.exec_driver_sql(f"SET SESSION {limit}")
                connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
                connection.commit()  # it counts from the next transaction on

    @contextmanager
    def _limit_time(self, setting: str) -> Iterator[Callable[[Callable[[], object]], None]]:
        """Yield a function that takes what cancels the query; it is called when the time is over, also between two batches.

        Whatever fails after that, closing the connection included, fails because the time is over.
        """
        is_over, cancels = threading.Event(), list[Callable[[], object]]()

        def end() -> None:
            is_over.set()
            for cancel in cancels:
                with suppress(Exception):  # the connection may be closed by now
                    cancel()

        def register(cancel: Callable[[], object]) -> None:
            cancels.append(cancel)
            if is_over.is_set():
                raise self._build_timeout_error(setting)

        timer = threading.Timer(self._config.timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield register
        except (duckdb.Error, SQLAlchemyError) as error:
            if is_over.is_set() or any(words in str(error) for words in TIMEOUTS):
                raise self._build_timeout_error(setting) from None
            raise
        finally:
            timer.cancel()
        if is_over.is_set():
            raise self._build_timeout_error(setting)

    @contextmanager
    def _translate(self, setting: str) -> Iterator[None]:
        """Translate the libraries' errors, without the password in any of them."""
        try:
            yield
        except (duckdb.Error, SQLAlchemyError) as error:
            text = self._get_text(error)
            text = " ".join(text.replace(self._password, "***").split() if self._password else text.split())[:400]
            if self._is_unreachable(error, text):
                raise SourceUnreachable(
                    "the database does not answer",
                    where=f"dataset.url = {self._url.host}",
                    got=text,
                    next_step="check the network and the server, then run the build again",
                ) from None
            raise InputError(
                "the database refuses the query",
                where=setting,
                got=text,
                next_step=self._advise_on_refusal(setting),
            ) from None

    @property
    def _is_mysql(self) -> bool:
        return self._dialect in ("mysql", "mariadb")

    def _get_text(self, error: Exception) -> str:
        """Return what the database says, without SQLAlchemy's words and without MySQL's number."""
        if not isinstance(error, DBAPIError) or error.orig is None:
            return str(error)
        return str(error.orig.args[-1] if self._is_mysql else error.orig)

    def _is_unreachable(self, error: Exception, text: str) -> bool:
        """Return whether another attempt may succeed: the server is down or busy, and has not refused the query."""
        if not isinstance(error, OperationalError) or self._dialect == "sqlite":
            return False
        if self._is_mysql:
            code = error.orig.args[0] if error.orig else None
            return code in MYSQL_CLIENT_ERRORS or code in MYSQL_TRANSIENT_ERRORS
        return not any(word in text.lower() for word in REFUSALS)

    def _advise_on_refusal(self, setting: str) -> str:
        if self._dialect in ("sqlite", "duckdb"):  # a file has no users
            return f"correct {setting} or dataset.url"
        variables = f"{self._config.user_variable} and {self._config.password_variable}"
        return f"correct {setting} or dataset.url; user and password come from the variables {variables}"

    def _build_timeout_error(self, setting: str) -> InputError:
        return InputError(
            "the query takes too long",
            where=setting,
            expected=f"the last row within {self._config.timeout_s:g} s",
            next_step="raise dataset.timeout_s, or make the query faster",
        )
