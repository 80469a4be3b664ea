"""Tables that are written anew, by DuckDB: types, order, statistics, and what a write that was overtaken or cut off
leaves."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tasks.core.errors import LakeError
from tasks.stores import lake_replace
from tasks.stores.lake import Lake

DAY0 = datetime(2013, 1, 30, 22, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")


def make_rows(count: int, step: timedelta = timedelta(hours=7, microseconds=123_456)) -> pa.Table:
    times = pa.array([DAY0 + i * step for i in range(count)], MOMENT)
    values = pa.array([None if i % 5 == 0 else float("nan") if i % 7 == 0 else i / 3 for i in range(count)])
    return pa.table({"id": range(count), "value": values, "event_timestamp": times, "created_timestamp": times})


def replace(lake: Lake, rows: Any, start: datetime | None = None, digest: str = "d") -> Any:
    return lake.replace("t", rows, start=start, properties={"digest": digest})


def content(lake: Lake, version: int | None = None) -> list[tuple[Any, ...]]:
    with lake.session() as connection:
        columns = connection.sql(
            f"select * replace (value::varchar as value) from {lake.scan('t', version)} order by all"
        )
        return columns.fetchall()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "my lake's"))


def test_other_readers_of_delta_read_the_same_rows(lake: Lake) -> None:
    rows = make_rows(300)
    replace(lake, rows)
    replace(lake, rows.slice(200), start=rows["event_timestamp"][200].as_py())
    read = DeltaTable(lake.at("t")).to_pyarrow_table().sort_by("event_timestamp")
    assert read.drop_columns("event_month").to_pylist()[1:5] == rows.to_pylist()[1:5]
    assert read["id"].to_pylist() == list(range(300))
    assert sorted(set(read["event_month"].to_pylist())) == ["2013-01", "2013-02", "2013-03", "2013-04"]


def test_each_file_is_one_month_in_order_with_statistics_of_its_times(lake: Lake) -> None:
    shuffled = make_rows(300).sort_by([("value", "descending")])
    replace(lake, shuffled)
    actions = pa.table(DeltaTable(lake.at("t")).get_add_actions(flatten=True)).to_pylist()
    assert len(actions) == 4
    for action in actions:
        path = Path(lake.at("t"), action["path"])
        assert action["size_bytes"] == path.stat().st_size
        with lake.session() as connection:
            times = [
                t for (t,) in connection.sql(f"select event_timestamp from read_parquet({str(path)!r})").fetchall()
            ]
        assert times == sorted(times)
        assert {f"{moment:%Y-%m}" for moment in times} == {action["partition.event_month"]}
        assert action["num_records"] == len(times)
        for column in ("event_timestamp", "created_timestamp"):
            assert action[f"min.{column}"] <= times[0] < action[f"min.{column}"] + timedelta(milliseconds=1)
            assert action[f"max.{column}"] <= times[-1] < action[f"max.{column}"] + timedelta(milliseconds=1)
            assert action[f"null_count.{column}"] == 0


def test_months_without_rows_have_no_files(lake: Lake) -> None:
    assert replace(lake, make_rows(3, step=timedelta(days=4000))).rows == 3
    assert len(lake.files("t")) == 3
    assert replace(lake, make_rows(0), digest="e").rows == 0
    assert lake.files("t") == []


def test_a_tail_leaves_what_lies_before_it(lake: Lake) -> None:
    rows = make_rows(300)
    for cut in (0, 1, 3, 4, 150, 299):
        replace(lake, rows)
        before = content(lake)
        start = rows["event_timestamp"][cut].as_py()
        # A relation of DuckDB, as features hand it over: a table in order.
        with lake.session() as connection:
            connection.register("given", rows.slice(cut))
            connection.execute("create temp table built as from given order by event_timestamp")
            ref = replace(lake, connection.table("built"), start=start)
        assert content(lake) == before
        assert ref.rows == 300
        assert replace(lake, rows.slice(0, 0), start=start).rows == cut
        assert content(lake) == before[:cut]
        assert content(lake, ref.version) == before


def test_types_that_delta_lacks_become_those_that_hold_them(lake: Lake) -> None:
    sql = """
        select 1::utinyint as tiny, 4::uinteger as small, 5::ubigint as big, -7::hugeint as huge,
               'y'::enum ('y', 'z') as chosen, date '2013-01-02' as day, [1, null] as many, {'a': 1} as pair,
               timestamptz '2013-01-01 00:00Z' as event_timestamp, timestamptz '2013-01-01 00:00Z' as created_timestamp
    """
    with lake.session() as connection:
        replace(lake, connection.sql(sql))
        found = connection.sql(f"from {lake.scan('t')}")
        assert dict(zip(found.columns, map(str, found.types), strict=True)) == {
            "tiny": "TINYINT", "small": "INTEGER", "big": "BIGINT", "huge": "DECIMAL(38,0)", "chosen": "VARCHAR",
            "day": "DATE", "many": "INTEGER[]", "pair": "STRUCT(a INTEGER)",
            "event_timestamp": "TIMESTAMP WITH TIME ZONE", "created_timestamp": "TIMESTAMP WITH TIME ZONE",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "start", "said"),
    [
        ("value::varchar as value", DAY0, r"cannot take these rows(.|\n)*'value': 'VARCHAR'(.|\n)*'value': 'DOUBLE'"),
        ("value::float as value", DAY0, r"cannot take these rows"),
        ("id::bigint as id", DAY0 + timedelta(hours=1), r"cannot take these rows(.|\n)*one of 2013-01-30 22:00"),
        ("if(id = 1, null, event_timestamp) as event_timestamp", DAY0, r"1 rows for table 't' have no event_timestamp"),
        ("4000000000::uinteger as id", None, r"cannot take these rows(.|\n)*out of range"),
        ("time '10:00' as value", None, r"no type like one of these(.|\n)*'value': 'TIME'"),
    ],
)
def test_rows_that_do_not_fit_leave_the_table_as_it_was(
    lake: Lake, change: str, start: datetime | None, said: str
) -> None:
    before = replace(lake, make_rows(5))
    with lake.session() as connection:
        connection.register("given", make_rows(5))
        connection.execute(
            f"create temp table built as select * replace ({change}) from given order by event_timestamp"
        )
        with pytest.raises(LakeError, match=said):
            replace(lake, connection.table("built"), start=start)
    assert lake.latest("t") == before


def test_other_columns_may_come_when_all_is_replaced(lake: Lake) -> None:
    replace(lake, make_rows(5))
    assert replace(lake, make_rows(5).drop_columns("value")).version == 1
    with lake.connect() as connection:
        assert connection.table("t").columns == ["id", "event_timestamp", "created_timestamp"]


@pytest.mark.parametrize("start", [None, DAY0])
def test_a_writer_that_was_overtaken_is_told_so(
    lake: Lake, start: datetime | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(lake, make_rows(5))
    honest, raced = lake_replace.write_months, []

    def race(rows: duckdb.DuckDBPyRelation, folder: str) -> Any:
        if not raced:
            raced.append(True)
            replace(Lake(lake.uri), make_rows(2), digest="rival")
        return honest(rows, folder)

    monkeypatch.setattr(lake_replace, "write_months", race)
    monkeypatch.setattr(lake_replace, "writing", lambda *_: nullcontext())  # no lock: as on an object store
    with pytest.raises(LakeError, match="changed by another writer"):
        replace(lake, make_rows(4), start=start)
    assert (lake.latest("t").digest, lake.latest("t").rows) == ("rival", 2)


_CUT_OFF = """
import os, signal, sys
from datetime import datetime
from tasks.stores import lake, lake_replace
from tests.stores.test_month_files import make_rows
honest = lake_replace.write_months
def dying(rows, folder):
    honest(rows, folder)
    os.kill(os.getpid(), signal.SIGKILL)
lake_replace.write_months = dying
rows = make_rows(300)
lake.Lake(sys.argv[1]).replace("t", rows, start=None, properties={"digest": "never"})
"""


@pytest.mark.parametrize("is_first", [True, False])
def test_a_killed_write_is_not_read_and_its_files_go_with_the_next(lake: Lake, is_first: bool) -> None:
    if not is_first:
        replace(lake, make_rows(20))
    killed = subprocess.run([sys.executable, "-c", _CUT_OFF, lake.uri], env={**os.environ}, check=False)
    assert killed.returncode == -signal.SIGKILL
    on_disk = sorted(Path(lake.at("t")).rglob("*.parquet"))
    assert len(on_disk) == 4 + 2 * (not is_first)
    assert lake.names() == ([] if is_first else ["t"])
    replace(lake, make_rows(30), digest="next")
    assert lake.latest("t").rows == 30
    if not is_first:
        assert len(content(lake, 0)) == 20, "the older version is whole"
