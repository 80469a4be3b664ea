"""Days of a lake table, counted as they were known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.sections.loop import MonitorSection
from tasks.core.records import TableRef, Window
from tasks.home import open_lake
from tasks.table_health import count_days, judge_tables, quarantined_fraction

UNTIL = datetime(2013, 5, 6, 6, tzinfo=UTC)  # not midnight: days are counted back from the moment
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def feed(days: float, *, half_from: datetime | None = None, frozen: datetime | None = None) -> list[dict]:
    """Three reports an hour, until UNTIL; each is known an hour after it."""
    rows = []
    for hour in range(int(days * 24)):
        moment = UNTIL - (hour + 1) * HOUR
        for number in range(3):
            if half_from is not None and moment >= half_from and (hour + number) % 2:
                continue
            is_frozen = frozen is not None and frozen <= moment < frozen + DAY
            warm = 50.0 if is_frozen else 50.0 + (hour * 7 + number) % 23
            times = {"event_timestamp": moment, "created_timestamp": moment + HOUR}
            rows.append({"origin": f"o{number}", "warm": warm, **times})
    return rows


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    return tmp_path


def ingest(home: Path, rows: list[dict], batch: str = "b1", as_of: datetime = UNTIL) -> TableRef:
    times = pa.timestamp("us", "UTC")
    schema = pa.schema(
        [("origin", pa.string()), ("warm", pa.float64()), ("event_timestamp", times), ("created_timestamp", times)]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), home / "rows.parquet")
    said = {"batch_id": batch, "as_of": as_of.isoformat()}
    return open_lake("p").insert("weather", str(home / "rows.parquet"), key=("origin",), properties=said)[0]


def test_days_are_counted_back_from_the_moment_and_what_came_later_is_not_known(home: Path) -> None:
    rows = feed(9)
    late = {"origin": "late", "warm": 1.0, "event_timestamp": UNTIL - 3 * DAY, "created_timestamp": UNTIL + HOUR}
    found = count_days("p", ingest(home, [*rows, late]), UNTIL, 10)
    assert found.rows == (*[72] * 9, 0)
    assert found.different_values["warm"] == (*[23] * 9, 0)
    assert found.newest_age_hours == (*[0.0] * 9, None), "nothing was known before the first"


def judged(home: Path, rows: list[dict]) -> tuple[str, ...]:
    window = Window(start=UNTIL - 7 * DAY, end=UNTIL)
    (health,) = judge_tables("p", [ingest(home, rows)], window, MonitorSection())
    return health.faults


def test_a_quiet_feed_is_whole(home: Path) -> None:
    assert judged(home, feed(40)) == ()


def test_half_of_the_rows_missing(home: Path) -> None:
    (fault,) = judged(home, feed(40, half_from=UNTIL - 7 * DAY))
    assert fault.startswith("weather: 252 rows on 7 of 7 days")


def test_a_feed_that_repeats_one_value_for_a_day(home: Path) -> None:
    (fault,) = judged(home, feed(40, frozen=UNTIL - 3 * DAY))
    assert "weather.warm: 1 different values in a day (2 days ago)" in fault


def test_a_feed_that_brings_nothing_for_a_day(home: Path) -> None:
    rows = [row for row in feed(40) if row["event_timestamp"] < UNTIL - DAY]
    told = judged(home, rows)
    assert any("no new row for 24 hours" in fault for fault in told)
    assert any("0 rows on 1 of 7 days" in fault for fault in told)


def test_the_quarantine_of_the_windows_own_batches(home: Path) -> None:
    table = ingest(home, feed(1), "early", UNTIL - 8 * DAY)
    later = [{**row, "event_timestamp": row["event_timestamp"] + DAY} for row in feed(1)]
    table = ingest(home, later, "late", UNTIL)
    folder = home / "home" / "quarantine" / "p" / "weather"
    folder.mkdir(parents=True)
    for batch, rows in (("early", 500), ("late", 8)):
        pq.write_table(pa.table({"x": range(rows)}), folder / f"{batch}.parquet")
    window = Window(start=UNTIL - 7 * DAY, end=UNTIL)
    assert quarantined_fraction("p", table, window) == pytest.approx(8 / (72 + 8))
