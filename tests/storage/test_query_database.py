"""The queries of a build share one DuckDB, and nothing else."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexmill.flows.pipeline_context import open_root
from indexmill.storage import parquet, query_database
from indexmill.storage.query_database import connect, sharing_databases

# More than the 50 MB of `small_memory`, sorted.
SORTED_SQL = "SELECT i, md5(i::VARCHAR) AS digest FROM range(1_000_000) t(i) ORDER BY digest"


@pytest.fixture
def shared_databases() -> None:
    """Stands for the fixture that shares databases in all other tests."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[duckdb.DuckDBPyConnection]:
    """The databases that were opened."""
    databases = []

    def open_database(temp_dir: Path) -> duckdb.DuckDBPyConnection:
        databases.append(duckdb.connect(config={"memory_limit": query_database.MEMORY_LIMIT, "temp_directory": str(temp_dir)}))
        return databases[-1]

    monkeypatch.setattr(query_database, "_open_database", open_database)
    return databases


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_database, "MEMORY_LIMIT", "50MB")


def is_closed(database: duckdb.DuckDBPyConnection) -> bool:
    try:
        database.execute("SELECT 1")
    except duckdb.ConnectionException:
        return True
    return False


def test_queries_share_a_database_per_folder_until_the_last_block_ends(tmp_path: Path, opened: list[duckdb.DuckDBPyConnection]) -> None:
    with sharing_databases():
        with sharing_databases():
            assert parquet.fetch_rows("SELECT 1", temp_dir=tmp_path) == [(1,)]
        assert parquet.fetch_rows("SELECT 2", temp_dir=tmp_path) == [(2,)]
        assert len(opened) == 1
        assert parquet.fetch_rows("SELECT 3", temp_dir=tmp_path / "other") == [(3,)]
        assert [is_closed(database) for database in opened] == [False, False]
    assert [is_closed(database) for database in opened] == [True, True]


def test_all_queries_of_a_flow_share_a_database(tmp_path: Path, opened: list[duckdb.DuckDBPyConnection]) -> None:
    with open_root(tmp_path) as root:
        for number in range(2):
            assert parquet.fetch_rows(f"SELECT {number}", temp_dir=root.tmp) == [(number,)]
    assert [is_closed(database) for database in opened] == [True]


def test_without_a_block_a_query_opens_a_database_and_closes_it(tmp_path: Path, opened: list[duckdb.DuckDBPyConnection]) -> None:
    for number in range(2):
        assert parquet.fetch_rows(f"SELECT {number}", temp_dir=tmp_path) == [(number,)]
    assert [is_closed(database) for database in opened] == [True, True]


def test_a_query_sees_no_table_or_setting_of_another(tmp_path: Path) -> None:
    table = pa.table({"number": [1]})
    with sharing_databases(), parquet.query("FROM mine", temp_dir=tmp_path, mine=table.to_reader()) as batches:
        with pytest.raises(duckdb.CatalogException, match="mine does not exist"):
            parquet.fetch_rows("FROM mine", temp_dir=tmp_path)
        assert [batch.to_pylist() for batch in batches] == [[{"number": 1}]]
        with connect(tmp_path) as connection:
            connection.execute("CREATE TEMP TABLE mine AS SELECT 2 AS number")
        with pytest.raises(duckdb.CatalogException, match="mine does not exist"):
            parquet.fetch_rows("FROM mine", temp_dir=tmp_path)


def test_a_file_of_the_same_name_size_and_time_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "numbers.parquet"
    with sharing_databases():
        for numbers in ([1, 2, 3], [4, 5, 6]):
            pq.write_table(pa.table({"number": numbers}), file)
            os.utime(file, (1, 1))
            assert parquet.fetch_rows(f"FROM {parquet.scan_sql(file)}", temp_dir=tmp_path) == [(number,) for number in numbers]


def test_spilled_files_are_in_the_folder_and_removed_with_the_last_block(tmp_path: Path, small_memory: None) -> None:
    with sharing_databases():
        with parquet.query(SORTED_SQL, temp_dir=tmp_path) as batches:
            next(batches)
            assert [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
        assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]  # the next query has the whole disk
    assert not list(tmp_path.iterdir())


def test_the_limit_holds_for_the_queries_together(tmp_path: Path, small_memory: None) -> None:
    with sharing_databases(), connect(tmp_path) as connection, parquet.query(SORTED_SQL, temp_dir=tmp_path) as batches:
        next(batches)
        ((used,),) = connection.execute("SELECT sum(memory_usage_bytes) FROM duckdb_memory()").fetchall()
        assert 0 < used <= 50_000_000


def test_threads_query_at_the_same_time(tmp_path: Path) -> None:
    def count(number: int) -> int:
        sql = f"SELECT count(DISTINCT i % $modulus) FROM range({10_000 + number}) t(i)"
        return int(parquet.fetch_rows(sql, {"modulus": number + 1}, temp_dir=tmp_path)[0][0])

    with sharing_databases(), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count, range(40))) == list(range(1, 41))


def test_after_an_error_the_next_query_has_another_database_and_running_ones_end(
    tmp_path: Path, opened: list[duckdb.DuckDBPyConnection]
) -> None:
    with sharing_databases(), parquet.query("SELECT i FROM range(100_000) t(i)", temp_dir=tmp_path) as batches:
        rows = next(batches).num_rows
        with pytest.raises(duckdb.Error, match="broken"):
            parquet.fetch_rows("SELECT error('broken')", temp_dir=tmp_path)
        assert parquet.fetch_rows("SELECT 1", temp_dir=tmp_path) == [(1,)]
        assert len(opened) == 2
        assert rows + sum(batch.num_rows for batch in batches) == 100_000
    assert [is_closed(database) for database in opened] == [True, True]


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    # Queries on a forked database wait for ever: its threads are in the parent.
    script = f"""
import os
from pathlib import Path
from indexmill.storage import parquet
from indexmill.storage.query_database import sharing_databases

def count():
    return parquet.fetch_rows("SELECT count(DISTINCT i % 1000) FROM range(1_000_000) t(i)", temp_dir=Path({str(tmp_path)!r}))

with sharing_databases():
    count()
    if child := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert count() == [(1000,)]
        os._exit(status)
    try:
        with sharing_databases():
            right = count() == [(1000,)]
    finally:
        os._exit(not right)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
