"""Staging and publishing on CSV files: windows, known times, idempotence, and sources that are wrong."""

import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.sections.data import TableSection
from tasks.core.errors import LakeError, SourceError
from tasks.core.records import BatchRef, PublishedBatch, ValidatedBatch
from tasks.home import open_lake
from tasks.ingestion import _may_pass, ingesting, publish_batch, stage_table
from tasks.stores.source_files import UnreachableError

START = datetime(2013, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def section(path: Path, **changes: Any) -> TableSection:
    return TableSection.model_validate(
        {
            "description": "One row per sensor and reading.",
            "source": {"format": "csv", "path": str(path)},
            "columns": {"sensor": "sensor", "value": "value::double"},
            "key": ["sensor"],
            "event_timestamp": "moment",
            "created_timestamp": "moment + to_hours(delay_hours::int)",
            "lookback": "12h",
            **changes,
        }
    )


def write_readings(path: Path, rows: list[tuple[str, int, float, int]]) -> None:
    """(sensor, hour, value, hours until it was known)."""
    lines = [
        f"{sensor},{START + hour * HOUR:%Y-%m-%d %H:%M:%S+00},{value},{delay}" for sensor, hour, value, delay in rows
    ]
    path.write_text("sensor,moment,value,delay_hours\n" + "\n".join(lines) + "\n")


READINGS = [(f"s{i % 3}", i, i / 7, (i * 5) % 11) for i in range(100)]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TableSection:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    write_readings(tmp_path / "readings.csv", READINGS)
    return section(tmp_path / "readings.csv")


def stage(table: TableSection, hours: float) -> BatchRef:
    return stage_table.fn("p", "readings", table, START, START + hours * HOUR)


def ingest(table: TableSection, hours: float) -> PublishedBatch:
    batch = stage(table, hours)
    validated = ValidatedBatch(
        batch=batch, uri=batch.uri, rows=batch.rows, quarantined_rows=0, quarantine_uri=None, docs_uri="",
        num_expectations=0, findings=(),
    )  # fmt: skip
    return publish_batch.fn(validated, table)


def rows(path: str) -> list[tuple[Any, ...]]:
    with open_lake("p").session() as connection:
        return connection.sql(f"from read_parquet('{path}')").fetchall()


def test_what_is_known_is_staged_and_nothing_else(table: TableSection) -> None:
    batch = stage(table, 20)
    staged = rows(batch.uri)
    expected = [i for i in range(100) if i + (i * 5) % 11 <= 20]
    assert [round(value * 7) for _, value, _, _ in staged] == expected  # by event time
    assert batch.rows == len(expected)
    assert staged[0][2:] == (START, START)
    assert [path.name for path in Path(batch.uri).parent.iterdir()] == ["rows.parquet"]


def test_a_window_twice_is_the_same_batch_and_the_same_table(table: TableSection) -> None:
    first = ingest(table, 20)
    again = ingest(table, 20)
    assert (again.table, again.inserted_rows) == (first.table, 0)
    assert stage(table, 20) == stage(table, 20)


def test_after_a_kill_between_staging_and_publishing(table: TableSection, tmp_path: Path, monkeypatch: Any) -> None:
    ingest(table, 30)
    stage(table, 60)  # and the machine is gone
    ends = [ingest(table, 60), ingest(table, 100)][-1]
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "at once"))
    at_once = ingest(table, 100)
    assert (ends.table.rows, ends.table.digest) == (at_once.table.rows, at_once.table.digest)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hours=st.lists(st.integers(1, 110), max_size=5))
def test_any_sequence_of_moments_ends_in_the_same_table(
    table: TableSection, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, hours: list[int]
) -> None:
    tables = []
    for moments in ([110], [*hours, 110]):
        monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path_factory.mktemp("home")))
        tables.append([ingest(table, moment) for moment in moments][-1].table)
    assert tables[0].rows == tables[1].rows == len(READINGS)
    assert tables[0].digest == tables[1].digest


parts = st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=40), min_size=1, max_size=3)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=parts, seed=st.randoms(use_true_random=False))
def test_the_same_rows_in_any_order_overlap_and_split_end_in_the_same_table(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, parts: Any, seed: Any
) -> None:
    """The source shows one part after the other, in disorder and with rows twice; what was shown before comes again."""
    everything = sorted({number for part in parts for number in part})
    tables = []
    for shown in ([everything], [[*part, *part[:3]] for part in parts]):
        monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path_factory.mktemp("home")))
        source = tmp_path / "parts.csv"
        for numbers in shown:
            seed.shuffle(numbers)
            write_readings(source, [READINGS[number] for number in numbers])
            published = ingest(section(source, lookback="1000h"), 110)
        tables.append(published.table)
    assert tables[0].rows == tables[1].rows == len(everything)
    assert tables[0].digest == tables[1].digest


SECOND = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tasks.ingestion import ingesting
from tests.tasks.test_ingestion import ingest, section
print("ready", flush=True)
with ingesting("p", "readings"):
    print(ingest(section(Path(sys.argv[1])), 20).inserted_rows, flush=True)
"""


def test_of_two_ingests_at_once_the_second_waits_and_finds_nothing_new(table: TableSection, tmp_path: Path) -> None:
    """Of one moment they stage in the same folder, which the first to publish removes."""
    command = [sys.executable, "-c", SECOND, str(tmp_path / "readings.csv")]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as other,
        ExitStack() as turn,
    ):
        turn.enter_context(ingesting("p", "readings"))
        batch = stage(table, 20)
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        time.sleep(1)
        assert other.poll() is None
        assert rows(batch.uri)
        assert ingest(table, 20).inserted_rows > 0
        turn.close()
        assert other.stdout.readline() == "0\n"


def test_an_ingest_that_cannot_have_its_turn_says_so(table: TableSection) -> None:
    refused = pytest.raises(LakeError, match="another run is ingesting table 'readings'")
    with ingesting("p", "readings"), refused, ingesting("p", "readings", wait_seconds=0):
        pass


def test_a_window_starts_where_the_last_one_ended_less_the_lookback(table: TableSection) -> None:
    assert stage(table, 50).window.start == START
    ingest(table, 50)  # the newest event that was known by then is that of hour 45
    assert stage(table, 80).window.start == START + 33 * HOUR
    assert stage(table, 20).window.start == START + 8 * HOUR  # a moment before it looks back from there
    assert stage(table, 1).window.start == START


def test_a_timetable_reaches_ahead_of_the_moment(table: TableSection, tmp_path: Path) -> None:
    ahead = section(tmp_path / "readings.csv", created_timestamp="moment - interval 30 day", ahead="10h")
    assert stage(ahead, 20).rows == 30
    ingest(ahead, 20)
    # What was announced since, for the hours that the last one already reached, is looked at again.
    assert stage(ahead, 60).window.start == START + 8 * HOUR
    assert stage(ahead, 60).window.end == START + 70 * HOUR


def test_a_correction_is_a_new_row_with_its_own_known_time(table: TableSection, tmp_path: Path) -> None:
    ingest(table, 40)
    write_readings(tmp_path / "readings.csv", [*READINGS, ("s0", 36, 99.0, 5)])
    published = ingest(table, 42)
    with open_lake("p").connect() as connection:
        found = connection.sql("select value from readings where event_timestamp = '2013-01-02 12:00' order by 1")
        assert [round(value, 2) for (value,) in found.fetchall()] == [round(36 / 7, 2), 99.0]
    assert published.inserted_rows == 1 + sum(40 < i + (i * 5) % 11 <= 42 for i in range(100))


def test_rows_without_a_time_or_known_too_early_are_kept_for_validation(table: TableSection, tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text(
        "sensor,moment,value,delay_hours\n"
        "a,2013-01-01 01:00:00+00,1,0\n"
        "b,,2,0\n"
        "c,2013-01-05 00:00:00+00,3,-100\n"
        "d,2013-01-05 00:00:00+00,4,0\n"
    )
    assert [sensor for sensor, *_ in rows(stage(table, 20).uri)] == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("changes", "text", "said"),
    [
        ({"columns": {"sensor": "sensor", "value": "val"}}, None, ["asks for a column", '"val"', "delay_hours"]),
        (
            {},
            "sensor,moment,value,delay_hours\na,2013-01-01 00:00:00+00,1,0\nb,2013-01-01 18:00:00+00,1O,0\n",
            ["column 'value' = value::double", "'1O'"],
        ),
        ({"event_timestamp": "sensor"}, None, ["column 'event_timestamp'", "s0"]),
        ({"where": "sensor > 1"}, None, ["where = sensor > 1"]),
        ({"columns": {"sensor": "sensor", "value": "no_such_function(value)"}}, None, ["'value'", "no_such_function"]),
        ({}, "sensor,moment,value,delay_hours\n", ["has no rows"]),
        ({}, "sensor,moment,value,delay_hours\na,2013-01-01 00:00:00+00,1\n", ["source"]),
        ({"source": {"format": "csv", "path": "/no/such/file.csv"}}, None, ["/no/such/file.csv"]),
    ],
    ids=["missing column", "wrong type", "no time", "where", "function", "no rows", "ragged", "no file"],
)
def test_a_source_that_is_wrong_says_where_and_leaves_everything_as_it_was(
    table: TableSection, tmp_path: Path, changes: dict[str, Any], text: str | None, said: list[str]
) -> None:
    before = ingest(table, 20).table
    if text is not None:
        (tmp_path / "readings.csv").write_text(text)
    with pytest.raises(SourceError) as caught:
        stage(section(tmp_path / "readings.csv", **changes), 40)
    for part in said:
        assert part in str(caught.value)
    assert open_lake("p").latest("readings") == before
    assert not [path for path in (tmp_path / "home" / "staging").rglob("*") if path.is_file()]


def test_only_what_may_pass_by_itself_is_tried_again() -> None:
    class State:
        def __init__(self, data: BaseException) -> None:
            self.data = data

    assert _may_pass(None, None, State(UnreachableError("database")))
    assert _may_pass(None, None, State(OSError("disk")))
    assert not _may_pass(None, None, State(SourceError("no such column")))
