"""What a feature's SQL says of itself."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tasks import feature_sql
from tasks.core.records import TableRef
from tasks.feature_sql import lookback, parse, part_ends

PATH, START = Path("total.sql"), datetime(2013, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SINCE = "from trips where created_timestamp >= $start"


@pytest.mark.parametrize(
    ("sql", "interval"),
    [
        (SINCE, 0 * DAY),
        (f"{SINCE} - interval 168 hour and created_timestamp < $end", 7 * DAY),
        (f"with a as ({SINCE} - interval 2 day), b as ({SINCE} - to_days(3)) from a, b where x > $start", 3 * DAY),
        ("from trips where created_timestamp between $start - interval '1 month' and $end", 30 * DAY),
        ("from trips", None),
        ("from trips where created_timestamp < $end", None),
        (f"{SINCE}::date", None),
        (f"{SINCE} - length_of_trip", None),
        ("from trips where created_timestamp >= date_trunc('year', $start)", None),
    ],
)
def test_how_far_before_its_start_a_statement_reads(sql: str, interval: timedelta | None) -> None:
    with duckdb.connect() as connection:
        assert lookback(connection, parse(connection, PATH, sql)) == interval


@pytest.mark.parametrize(
    ("sql", "rows", "days"),
    [
        (SINCE, 100, [2, 4, 6]),
        (SINCE, 240, [5]),
        (SINCE, 1_000, []),
        (f"{SINCE} - interval 3 day", 100, [2, 5]),  # the first has nothing before it
        (f"{SINCE} - interval 30 day", 100, [2]),
        ("from trips", 100, []),
    ],
)
def test_parts_hold_some_rows_in_whole_days_and_are_no_shorter_than_what_each_reads_before(
    sql: str, rows: int, days: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows an hour, a week long."""
    monkeypatch.setattr(feature_sql, "PART_ROWS", rows)
    beginning, end = datetime(1900, 1, 1, tzinfo=UTC), START + 7 * DAY
    sources = [
        TableRef(name=name, uri="", version=0, rows=count, digest="") for name, count in (("trips", 336), ("cars", 3))
    ]
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        moments = "range(timestamptz '2013-01-01', timestamptz '2013-01-08', interval 30 minute) r(created_timestamp)"
        connection.execute(f"create table trips as from {moments}")
        ends = part_ends(connection, PATH, sql, sources, beginning, end)
    assert ends == [*(START + day * DAY for day in days), end]
