"""Repeated rows, told by hashes: by numpy where they fit into memory, else by DuckDB."""

from collections.abc import Iterator

import duckdb
import pytest

from tasks.stores import repeats
from tasks.stores.repeats import may_repeat


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as made:
        yield made


@pytest.mark.parametrize("most", [10, 10_000_000])
def test_one_row_that_comes_twice_is_told_wherever_it_stands(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(repeats, "MOST_ROWS", most)
    monkeypatch.setattr(repeats, "BATCH_ROWS", 1_000)
    rows = "(select i, (i % 7)::varchar as name from range(5000) t(i))"
    again = f"(from {rows} union all select 11, '4')"
    assert not may_repeat(connection, rows, ["i", "name"])
    assert may_repeat(connection, again, ["i", "name"])
    assert may_repeat(connection, rows, ["name"])


def test_nothing_and_nulls(connection: duckdb.DuckDBPyConnection) -> None:
    assert not may_repeat(connection, "(select 1 as i where false)", ["i"])
    assert not may_repeat(connection, "(values (null, 1), (null, 2), (1, null)) t(i, j)", ["i", "j"])
    assert may_repeat(connection, "(values (null, 1), (null, 1)) t(i, j)", ["i", "j"])
