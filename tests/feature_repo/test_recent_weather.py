"""recent_weather.sql: what was knowable at each moment, the same whether built whole or piece by piece."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

SQL = (Path(__file__).parents[2] / "feature_repo" / "weather" / "recent_weather.sql").read_text()
START = datetime(2013, 3, 8, 5, tzinfo=UTC)
HOURS = 24 * 6
NUMBERS = (
    "temperature_fahrenheit",
    "dew_point_fahrenheit",
    "humidity_percent",
    "wind_direction_degrees",
    "wind_speed_mph",
    "precipitation_inches",
    "pressure_millibars",
    "visibility_miles",
)


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    """Six days at two airports: some hours missing, some reported late, some corrected, some values missing."""
    random = np.random.default_rng(3)
    made = []
    for origin in ("EWR", "JFK"):
        for hour in range(HOURS):
            if random.random() < 0.1:
                continue
            moment = START + timedelta(hours=hour)
            late = timedelta(minutes=int(random.integers(60, 1500))) if random.random() < 0.1 else timedelta()
            for correction in range(2 if random.random() < 0.1 else 1):
                values = {
                    name: None if random.random() < 0.05 else float(random.integers(0, 9999)) / 100 for name in NUMBERS
                }
                known = moment + timedelta(hours=1) + late + correction * timedelta(hours=5)
                made.append({"origin": origin, "reported_hour": moment, "created_timestamp": known, **values})
    return made


def build(reports: list[dict[str, Any]], start: datetime, end: datetime) -> list[dict[str, Any]]:
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.register("given", pa.Table.from_pylist(reports))
    connection.execute("create view reports as select *, reported_hour as event_timestamp from given")
    connection.execute(f"create table built as {SQL}", {"start": start, "end": end})
    return connection.sql("from built order by origin, event_timestamp").to_arrow_table().to_pylist()


def test_built_piece_by_piece_it_is_the_same(reports: list[dict[str, Any]]) -> None:
    end = START + timedelta(days=9)
    cuts = [START, *(START + timedelta(hours=hours) for hours in (1, 31, 55, 80)), end]
    pieces = [row for start, stop in itertools.pairwise(cuts) for row in build(reports, start, stop)]
    whole = build(reports, datetime(1900, 1, 1, tzinfo=UTC), end)
    assert sorted(pieces, key=lambda row: (row["origin"], row["event_timestamp"])) == whole
    assert len(whole) > 250


def test_a_row_is_what_was_knowable_then(reports: list[dict[str, Any]]) -> None:
    for row in build(reports, START, START + timedelta(days=9))[::7]:
        moment = row["event_timestamp"]
        hours: dict[datetime, dict[str, Any]] = {}
        for report in sorted(reports, key=lambda one: one["created_timestamp"]):
            is_known = report["origin"] == row["origin"] and report["created_timestamp"] <= moment
            if is_known and report["reported_hour"] > moment - timedelta(hours=26):
                hours[report["reported_hour"]] = report
        newest = max(hours)
        day = [report for hour, report in hours.items() if hour > newest - timedelta(hours=24)]
        speeds = [report["wind_speed_mph"] for report in day if report["wind_speed_mph"] is not None]
        before = hours.get(newest - timedelta(hours=3), {}).get("pressure_millibars")
        now = hours[newest]["pressure_millibars"]
        assert row["observed_at"] == newest
        assert row["humidity_percent"] == hours[newest]["humidity_percent"]
        assert row["pressure_change_millibars_3h"] == (None if None in (now, before) else now - before)
        assert row["mean_wind_speed_mph_24h"] == pytest.approx(np.mean(speeds) if speeds else None)
        assert row["highest_wind_speed_mph_24h"] == max(speeds, default=None)
