"""One session for several connections: what each may read, and what of the lake is read once."""

from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tasks.core.records import TableRef
from tasks.stores import shared_session
from tasks.stores.lake import Lake
from tasks.stores.shared_session import SharedSession

FRAME = pa.table({"a": [1]})  # DuckDB would find it by its name
MOMENT = pa.scalar(datetime(2024, 3, 10, 12, tzinfo=UTC), pa.timestamp("us", "UTC"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def write(lake: Lake, name: str, rows: int) -> TableRef:
    times = pa.array([MOMENT] * rows)
    table = pa.table({"n": range(rows), "event_timestamp": times, "created_timestamp": times})
    return lake.replace(name, table, start=None, properties={"digest": "0" * 16})


def count(connection: duckdb.DuckDBPyConnection, relation: str) -> int:
    return int(connection.execute(f"select count(*) from {relation}").fetchall()[0][0])


def test_small_tables_are_read_once_and_large_ones_by_each(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = write(lake, "small", 3), write(lake, "large", 4)
    monkeypatch.setattr(shared_session, "MOST_ROWS_HELD", 3)
    session = SharedSession(lake, [small.uri, large.uri])
    held, streamed = session.scan(small), session.scan(large)
    assert streamed == lake.scan("large")
    with session.connect() as one, session.connect() as other:
        assert [count(each, scan) for each in (one, other) for scan in (held, streamed)] == [3, 4, 3, 4]
        for path in lake.files("small"):
            Path(path).unlink()
        assert session.scan(small) == held
        assert count(other, held) == 3
    session.close()


def test_versions_of_one_table_are_apart(lake: Lake) -> None:
    before, after = write(lake, "t", 3), write(lake, "t", 4)
    session = SharedSession(lake, [after.uri])
    with session.connect() as connection:
        assert [count(connection, session.scan(ref)) for ref in (before, after, before)] == [3, 4, 3]
    session.close()


def test_connections_read_their_folders_and_nothing_else(lake: Lake, tmp_path: Path) -> None:
    ref = write(lake, "t", 3)
    (tmp_path / "secret.csv").write_text("a\n1\n")
    session = SharedSession(lake, [ref.uri])
    with session.connect() as one, session.connect() as other:
        assert count(one, f"read_parquet('{ref.uri}/*/*.parquet')") == 3
        for refused in (f"read_csv('{tmp_path}/secret.csv')", "FRAME", "t"):
            with pytest.raises((duckdb.PermissionException, duckdb.CatalogException)):
                count(one, refused)
        with pytest.raises(duckdb.InvalidInputException, match="locked"):
            one.execute("set enable_external_access = true")
        assert one.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]
        one.execute("create temp view t as select 1")
        with pytest.raises(duckdb.CatalogException):
            count(other, "t")
    session.close()


def test_python_variables_are_no_tables_even_of_an_unconfined_session(lake: Lake) -> None:
    session = SharedSession(lake, ["s3://bucket/t"])
    with session.connect() as connection, pytest.raises(duckdb.CatalogException):
        count(connection, "FRAME")
    session.close()
