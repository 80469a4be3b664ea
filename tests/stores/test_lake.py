"""The lake on real Delta tables: inserts are idempotent whatever their split, versions stay what they were."""

import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.errors import LakeError
from tasks.stores import lake_commit, lake_insert
from tasks.stores.lake import Lake

DAY0 = datetime(2013, 1, 30, 22, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")


def make_rows(ids: list[int]) -> pa.Table:
    """One row per id: every seventh is a correction of the one before, with the same key and event."""
    event = [DAY0 + timedelta(hours=7, microseconds=123_456) * (i - (i % 7 == 6)) for i in ids]
    created = [moment + timedelta(hours=1 + i % 7) for i, moment in zip(ids, event, strict=True)]
    return pa.table(
        {
            "id": pa.array([i - (i % 7 == 6) for i in ids], pa.int64()),
            "value": pa.array([None if i % 5 == 0 else i / 3 for i in ids], pa.float64()),
            "event_timestamp": pa.array(event, MOMENT),
            "created_timestamp": pa.array(created, MOMENT),
        }
    )


def insert(lake: Lake, rows: pa.Table, folder: Path, **properties: str) -> tuple[Any, int]:
    path = folder / "staged.parquet"
    pq.write_table(rows, path)
    return lake.insert("t", str(path), key=["id"], properties=properties)


def content(lake: Lake, version: int | None = None) -> list[tuple[Any, ...]]:
    with lake.session() as connection:
        return connection.sql(f"from {lake.scan('t', version)} order by all").fetchall()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "my lake"), memory_limit="500MB", scratch=str(tmp_path / "scratch" / "t"))


def test_a_batch_twice_is_one_commit(lake: Lake, tmp_path: Path) -> None:
    first, inserted = insert(lake, make_rows(list(range(20))), tmp_path, batch_id="b1")
    again, none = insert(lake, make_rows(list(range(20))), tmp_path, batch_id="b2")
    assert (inserted, none) == (20, 0)
    assert first == again == lake.latest("t")
    assert (first.version, first.rows) == (0, 20)


def test_a_correction_is_a_row_of_its_own(lake: Lake, tmp_path: Path) -> None:
    insert(lake, make_rows([5]), tmp_path)
    _, inserted = insert(lake, make_rows([5, 6]), tmp_path)
    assert inserted == 1
    assert [row[0] for row in content(lake)] == [5, 5]


parts = st.lists(st.lists(st.integers(0, 29), min_size=1, max_size=30), min_size=1, max_size=4)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=parts, data=st.data())
def test_any_order_overlap_or_split_ends_in_the_same_table(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], data: st.DataObject
) -> None:
    everything = sorted({i for part in parts for i in part})
    whole, split = (Lake(str(tmp_path_factory.mktemp("lake"))) for _ in range(2))
    folder = tmp_path_factory.mktemp("staged")
    expected, rows = insert(whole, make_rows(data.draw(st.permutations(everything))), folder)
    for part in parts:  # with repeats inside a part, and between them
        found, _ = insert(split, make_rows(part), folder)
    assert content(split) == content(whole)
    assert (found.rows, found.digest) == (expected.rows, expected.digest) == (rows, expected.digest)


def test_the_digest_tells_different_values_apart(lake: Lake, tmp_path: Path) -> None:
    ref, _ = insert(lake, make_rows([1, 2]), tmp_path)
    other = Lake(str(tmp_path / "other"))
    changed = make_rows([1, 2]).set_column(1, "value", pa.array([0.5, None], pa.float64()))
    assert insert(other, changed, tmp_path)[0].digest != ref.digest


def test_an_older_version_keeps_its_rows_digest_and_words(lake: Lake, tmp_path: Path) -> None:
    first, _ = insert(lake, make_rows([1]), tmp_path, batch_id="b1")
    before = content(lake)
    insert(lake, make_rows([2]), tmp_path, batch_id="b2")
    third, _ = insert(lake, make_rows([3]), tmp_path, batch_id="b3")
    assert lake.ref("t", 0) == first
    assert content(lake, 0) == before
    assert lake.ref("t", 2) == third == lake.latest("t")
    commits = lake.commits("t", after=0)
    assert [(c.version, c.properties["batch_id"]) for c in commits] == [(1, "b2"), (2, "b3")]
    assert commits[0].properties["min_created"] == commits[0].properties["max_created"]
    assert datetime.fromisoformat(commits[0].properties["min_created"]) == content(lake)[1][3]


def test_statistics_in_milliseconds_do_not_hide_a_row(lake: Lake, tmp_path: Path) -> None:
    # The last event is 123.456 ms after the hour; Delta's log says 123 ms.
    rows = make_rows([1])
    insert(lake, rows, tmp_path)
    assert insert(lake, rows, tmp_path)[1] == 0


def test_a_late_day_reads_the_files_of_that_day_only(lake: Lake, tmp_path: Path) -> None:
    for first in range(0, 90, 30):
        insert(lake, make_rows(list(range(first, first + 30))), tmp_path)
    with lake.session() as connection:
        connection.register("staged", make_rows([45]))
        touched = lake_insert._overlapping(lake, connection, "t", lake.open("t"))
    assert 0 < touched.count(".parquet") < len(lake.files("t"))


def test_a_wide_table_still_has_statistics_of_its_times(lake: Lake, tmp_path: Path) -> None:
    rows = make_rows([1])
    for number in range(40):
        rows = rows.add_column(0, f"c{number}", pa.array([number]))
    insert(lake, rows, tmp_path)
    assert all(low is not None for _, low, _ in lake.data_files("t", lake.open("t")))


def test_columns_may_come_in_another_order_and_digest_alike(lake: Lake, tmp_path: Path) -> None:
    insert(lake, make_rows([1]), tmp_path)
    ref, _ = insert(lake, make_rows([2]).select([3, 1, 0, 2]), tmp_path)
    straight = Lake(str(tmp_path / "straight"))
    assert insert(straight, make_rows([1, 2]), tmp_path)[0].digest == ref.digest
    assert content(straight) == content(lake)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (make_rows([2]).append_column("more", pa.array([1])), "other columns"),
        (make_rows([2]).set_column(1, "value", pa.array(["a"])), "other columns"),
        (make_rows([2]).drop_columns("created_timestamp"), "lack a time"),
        (make_rows([2]).set_column(2, "event_timestamp", pa.array([None], MOMENT)), "have no time"),
        (make_rows([2]).set_column(2, "event_timestamp", pa.array([DAY0], pa.timestamp("us"))), "lack a time"),
    ],
)
def test_rows_that_do_not_fit_leave_the_table_as_it_was(lake: Lake, tmp_path: Path, rows: pa.Table, said: str) -> None:
    before, _ = insert(lake, make_rows([1]), tmp_path)
    with pytest.raises(LakeError, match=said):
        insert(lake, rows, tmp_path)
    assert lake.latest("t") == before


def test_an_unknown_table_or_version_names_the_known_ones(lake: Lake, tmp_path: Path) -> None:
    insert(lake, make_rows([1]), tmp_path)
    assert lake.names() == ["t"]
    with pytest.raises(LakeError, match=r"no table 'u'[\s\S]*one of \['t'\]"):
        lake.latest("u")
    with pytest.raises(LakeError, match="t at version 7"):
        lake.ref("t", 7)


def test_an_empty_table_has_columns_and_types(lake: Lake, tmp_path: Path) -> None:
    ref, _ = insert(lake, make_rows([]), tmp_path)
    assert ref.rows == 0
    with lake.connect() as connection:
        types = {name: kind for name, kind, *_ in connection.execute("describe t").fetchall()}
    assert types["value"] == "DOUBLE"
    assert types["event_timestamp"] == "TIMESTAMP WITH TIME ZONE"
    assert "event_month" not in types


def test_two_writers_without_a_lock_do_not_double_rows(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one commits the same rows after this one has looked, and before it commits."""
    insert(lake, make_rows([0]), tmp_path)
    from tasks.stores import lake_insert as module

    looked, raced = module._facts, []

    def race(connection: Any) -> dict[str, str]:
        facts = looked(connection)
        if not raced:
            raced.append(True)
            (tmp_path / "rival").mkdir()
            insert(Lake(lake.uri), make_rows([1, 2]), tmp_path / "rival")
        return facts

    monkeypatch.setattr(module, "_facts", race)
    monkeypatch.setattr(module, "writing", lambda *_: nullcontext())  # no lock: as on an object store
    ref, inserted = insert(lake, make_rows([1, 2, 3]), tmp_path)
    assert (ref.rows, inserted) == (4, 1)
    assert ref.digest == insert(Lake(str(tmp_path / "alone")), make_rows([0, 1, 2, 3]), tmp_path)[0].digest


def test_replace_puts_a_tail_in_place_in_one_commit(lake: Lake, tmp_path: Path) -> None:
    rows = make_rows([0, 1, 2, 3])
    lake.replace("t", rows, start=None, properties={"digest": "a"})
    cut = rows["event_timestamp"][2].as_py()
    tail = rows.slice(2).set_column(1, "value", pa.array([7.0, 8.0]))
    ref = lake.replace("t", tail.to_reader(), start=cut, properties={"digest": "b"})
    assert (ref.version, ref.rows, ref.digest) == (1, 4, "b")
    assert [row[1] for row in content(lake)] == [None, 1 / 3, 7.0, 8.0]
    assert lake.ref("t", 0).digest == "a"
    assert lake.replace("t", rows.slice(0, 0), start=cut, properties={"digest": "c"}).rows == 2


def test_replace_refuses_rows_before_its_start(lake: Lake) -> None:
    rows = make_rows([0, 1])
    before = lake.replace("t", rows, start=None, properties={"digest": "a"})
    with pytest.raises(LakeError, match="cannot take these rows"):
        lake.replace("t", rows, start=rows["event_timestamp"][1].as_py(), properties={"digest": "b"})
    assert lake.latest("t") == before


def test_a_replaced_table_is_not_inserted_into(lake: Lake, tmp_path: Path) -> None:
    lake.replace("t", make_rows([0]), start=None, properties={"digest": "a"})
    with pytest.raises(LakeError, match="not written by an insert"):
        insert(lake, make_rows([1]), tmp_path)


def test_the_content_of_a_version_is_the_digest_that_its_inserts_named(lake: Lake, tmp_path: Path) -> None:
    first, _ = insert(lake, make_rows([0, 1, 2]), tmp_path)
    second, _ = insert(lake, make_rows([2, 3, 4]), tmp_path)
    assert [lake.content("t", ref.version) for ref in (first, second)] == [first.digest, second.digest]
    known = make_rows([2])["created_timestamp"][0].as_py()
    assert lake.content("t", second.version, known) == lake.content("t", first.version, known) == first.digest
    Path(lake.files("t", second.version)[0]).unlink()
    with pytest.raises(duckdb.Error):
        lake.content("t", second.version)


def test_a_borrowed_table_is_read_where_it_lies_and_never_written(lake: Lake, tmp_path: Path) -> None:
    lent, _ = insert(lake, make_rows([0, 1]), tmp_path)
    other = Lake(str(tmp_path / "other"), borrowed={"t": lent.uri})
    assert other.names() == ["t"]
    assert other.ref("t", 0) == lent
    assert content(other) == content(lake)
    assert [commit.version for commit in other.commits("t")] == [0]
    with pytest.raises(LakeError, match="'t' is borrowed"):
        insert(other, make_rows([2]), tmp_path)
    with pytest.raises(LakeError, match="'t' is borrowed"):
        other.replace("t", make_rows([2]), start=None, properties={})
    assert lake.latest("t") == lent


_WRITER = """
import sys
from tasks.stores.lake import Lake
print("ready", flush=True)
sys.stdin.readline()
Lake(sys.argv[1]).insert("t", sys.argv[2], key=["id"])
print("done", flush=True)
"""


def test_a_killed_insert_leaves_the_old_version_or_the_new_one(lake: Lake, tmp_path: Path) -> None:
    staged = tmp_path / "half.parquet"
    pq.write_table(make_rows(list(range(60_000))), staged)
    sizes = {0}
    for delay in (0.15, 0.35, 0.7):
        command = [sys.executable, "-c", _WRITER, lake.uri, str(staged)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdin is not None
            writer.stdout.readline()
            writer.stdin.write("go\n")
            writer.stdin.flush()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        sizes.add(lake.latest("t").rows if lake.exists("t") else 0)
    assert sizes <= {0, 60_000}
    ref, _ = lake.insert("t", str(staged), key=["id"])  # and the lock of the dead is free
    assert (ref.rows, ref.version) == (60_000, 0)


_CUT_OFF = """
import os, signal, sys, time
import deltalake
from pathlib import Path
from tasks.stores.lake import Lake
write = deltalake.write_deltalake

def dying(table, rows, **told):
    def some():
        yield from rows
        # The last word is held back until a file lies there: the writer may be a batch or more behind its reader.
        while len(list(Path(sys.argv[1]).glob("t/*/*.parquet"))) < 2:
            time.sleep(.01)
        os.kill(os.getpid(), signal.SIGKILL)
    reader = type(rows).from_batches(rows.schema, some())
    write(table, reader, target_file_size=1, **told)

deltalake.write_deltalake = dying
Lake(sys.argv[1]).insert("t", sys.argv[2], key=["id"])
"""


def data_files(lake: Lake) -> set[str]:
    return {str(path) for path in Path(lake.uri, "t").rglob("*.parquet")}


def test_data_files_of_an_insert_that_was_killed_before_its_commit_are_not_read_and_go_with_the_next(
    lake: Lake, tmp_path: Path
) -> None:
    staged = tmp_path / "many.parquet"
    pq.write_table(make_rows(list(range(300_000))), staged)
    insert(lake, make_rows([0, 1]), tmp_path)
    before, committed = content(lake), data_files(lake)
    done = subprocess.run([sys.executable, "-c", _CUT_OFF, lake.uri, str(staged)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert committed < data_files(lake), "it was killed before it wrote anything"
    assert content(lake) == before
    insert(lake, make_rows([2]), tmp_path)
    assert data_files(lake) == set(lake.files("t"))
    assert lake.files("t", 0) == sorted(committed), "what an older version reads stays"


def test_a_log_that_somebody_shortened_costs_no_data_file(lake: Lake, tmp_path: Path) -> None:
    insert(lake, make_rows([0, 1]), tmp_path)
    insert(lake, make_rows([2]), tmp_path)
    lake.open("t").create_checkpoint()
    files, before = data_files(lake), content(lake)
    (Path(lake.uri) / "t" / "_delta_log" / f"{0:020}.json").unlink()
    (Path(lake.uri) / ".t.lock").write_text("process 1 writes\n")  # as after a kill
    with lake_commit.writing(lake, "t"):
        pass
    assert data_files(lake) == files
    assert content(lake) == before
