"""Sessions of DuckDB over the lake: nothing passes between them, they are confined alone, and spill."""

from pathlib import Path

import duckdb
import pytest

from tasks.stores.confined import confine
from tasks.stores.lake import Lake


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def test_sessions_see_nothing_of_each_other(lake: Lake) -> None:
    with lake.session() as one, lake.session() as other:
        one.execute("create temp table told as select 1; set TimeZone = 'Asia/Tokyo'")
        with pytest.raises(duckdb.CatalogException):
            other.execute("from told")
        assert other.sql("select current_setting('TimeZone')").fetchall() == [("UTC",)]


def test_one_that_is_confined_confines_no_other(lake: Lake, tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    file.write_text("a\n1\n")
    with lake.session(own=True) as own, lake.session() as other:
        confine(own)
        with pytest.raises(duckdb.PermissionException):
            own.execute(f"from '{file}'")
        assert other.sql(f"from '{file}'").fetchall() == [(1,)]


def test_a_query_larger_than_memory_spills_to_the_scratch_folder(tmp_path: Path) -> None:
    small = Lake(str(tmp_path / "lake"), memory_limit="60MB", threads=1, scratch=str(tmp_path / "not" / "there"))
    with small.session() as connection:
        connection.execute("create temp table big as select range as i, hash(range) as h from range(6_000_000)")
        assert connection.sql("select count(*) from big").fetchall() == [(6_000_000,)]
