"""How the feature tables of a small project are built: in which order, up to when, in parts; what is refused."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks import feature_sql, features
from tasks.core.errors import FeatureError
from tasks.core.records import TableRef
from tasks.features import build_features
from tasks.home import open_lake
from tasks.stores.lake import Lake

HOUR = timedelta(hours=1)
MOMENT = pa.timestamp("us", "UTC")
START = datetime(2013, 1, 1, tzinfo=UTC)
AS_OF = datetime(2013, 1, 15, tzinfo=UTC)

CARS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Int64, String

car = Entity(name="car", join_keys=["car"], value_type=ValueType.STRING)

def view(table, *features):
    return FeatureView(
        name=table, entities=[car], ttl=timedelta(days=1),
        source=FileSource(name=table, path=f"lake://{table}", timestamp_field="event_timestamp",
                          created_timestamp_column="created_timestamp"),
        schema=[Field(name="car", dtype=String), *(Field(name=name, dtype=Int64) for name in features)],
    )

total, double, trips = view("total", "meters"), view("double", "meters"), view("trips", "meters")
all_of_it = FeatureService(name="all_of_it", features=[total, double, trips])
only_total = FeatureService(name="only_total", features=[total])
"""
TOTAL = """
-- One row per car and moment at which a trip becomes known.
select car, created_timestamp as event_timestamp, created_timestamp,
       sum(meters) over (partition by car order by created_timestamp)::bigint as meters
from trips -- all of them
;
"""
DOUBLE = "with trips as (select * from total) select * replace (meters * 2 as meters) from trips"


@pytest.fixture
def cars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feature folder with one project; its SQL folder is returned."""
    folder = tmp_path / "features"
    (folder / "cars").mkdir(parents=True)
    (folder / "cars.py").write_text(CARS)
    (folder / "cars" / "total.sql").write_text(TOTAL)
    (folder / "cars" / "double.sql").write_text(DOUBLE)
    monkeypatch.setenv("PERENNIAL_FEATURE_REPO", str(folder))
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    insert_trips([("a", 0, 5), ("a", 1, 7), ("b", 2, 1)])
    return folder / "cars"


def insert_trips(rows: list[tuple[str, int, int]]) -> None:
    """Rows of (car, hours after START, meters)."""
    lake = open_lake("cars")
    times = pa.array([START + hours * HOUR for _, hours, _ in rows], MOMENT)
    table = pa.table({"car": [r[0] for r in rows], "meters": [r[2] for r in rows], "event_timestamp": times})
    path = Path(lake.uri).parent / "trips.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(table.append_column("created_timestamp", times), path)
    lake.insert("trips", str(path), key=("car",))


def build_cars(hours: int, service: str = "all_of_it") -> dict[str, TableRef]:
    tables = (open_lake("cars").latest("trips"),)
    return {ref.name: ref for ref in build_features.fn("cars", (service,), tables, START + hours * HOUR)}


def meters(ref: TableRef) -> list[int]:
    with Lake(str(Path(ref.uri).parent)).connect({ref.name: ref.version}) as connection:
        return [row[0] for row in connection.sql(f"select meters from {ref.name} order by event_timestamp").fetchall()]


def test_a_table_is_built_after_those_it_reads_and_up_to_its_moment(cars: Path) -> None:
    built = build_cars(1)
    assert list(built) == ["total", "double"]  # trips has no SQL: its view reads the lake's table
    assert meters(built["double"]) == [10, 24]  # the moment itself is in, what comes after it is not
    insert_trips([("a", 3, 2)])
    again = build_cars(3)
    assert meters(again["double"]) == [10, 24, 2, 28]
    assert open_lake("cars").commits("double")[-1].properties["min_created"] > START.isoformat()


def test_small_tables_are_built_side_by_side_and_large_ones_alone(cars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cars / "double.sql").write_text(TOTAL.replace("sum(meters)", "2 * sum(meters)"))  # neither reads the other
    run, both, alone = features._run, threading.Barrier(2), threading.Lock()

    def beside(*arguments: Any) -> int:
        both.wait(30)
        return run(*arguments)

    def by_itself(*arguments: Any) -> int:
        assert alone.acquire(blocking=False)
        try:
            return run(*arguments)
        finally:
            alone.release()

    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(features, "_run", beside)
    assert meters(build_cars(1)["double"]) == [10, 24]
    monkeypatch.setattr(features, "_run", by_itself)
    monkeypatch.setattr(features, "MOST_ROWS_BESIDE", 2)
    insert_trips([("a", 3, 2)])
    assert meters(build_cars(3)["double"]) == [10, 24, 2, 28]


def test_what_is_known_after_the_moment_is_not_read(cars: Path) -> None:
    (cars / "total.sql").write_text(TOTAL.replace(" order by created_timestamp)", ")"))  # sums over whatever is there
    assert meters(build_cars(0)["total"]) == [5]


def test_other_sql_is_another_table(cars: Path) -> None:
    before = build_cars(3)
    (cars / "total.sql").write_text(TOTAL.replace("sum(", "max("))
    after = build_cars(3)
    assert meters(after["total"]) == [5, 7, 1]
    assert meters(after["double"]) == [10, 14, 2]
    assert after["total"].digest != before["total"].digest
    (cars / "total.sql").write_text(TOTAL)
    assert build_cars(3)["total"] == before["total"]  # which is still there


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (TOTAL.replace("select car,", "select"), r"total\.sql does not give(.|\n)*'car': 'missing'"),
        (TOTAL.replace("as event_timestamp", "as moment"), r"total\.sql does not run(.|\n)*event_timestamp"),
        (TOTAL.replace("::bigint", ""), r"does not give(.|\n)*HUGEINT(.|\n)*BIGINT"),
        (TOTAL.replace("meters)", "feet)"), r'total\.sql does not run(.|\n)*"feet"'),
        (TOTAL.replace("from trips", "from trip"), r"no table 'trip'(.|\n)*one of \['double', 'total', 'trips'\]"),
        (TOTAL.replace("select car", "selec car"), r"total\.sql is not SQL"),
        (TOTAL.replace("from trips", "from trips, range(2)"), r"several rows of one key"),
        (TOTAL.replace("from trips", "from double"), r"reads itself(.|\n)*total -> double -> total"),
    ],
)
def test_bad_sql_is_told_with_its_file_and_nothing_is_written(cars: Path, sql: str, message: str) -> None:
    (cars / "total.sql").write_text(sql)
    with pytest.raises(FeatureError, match=message):
        build_cars(3, "only_total")
    assert open_lake("cars").names() == ["trips"]


def test_sql_may_not_replace_what_is_ingested(cars: Path) -> None:
    (cars / "trips.sql").write_text("select * from total")
    with pytest.raises(FeatureError, match="would replace the ingested table 'trips'"):
        build_cars(3)


LATE_LEAK = """
select car, created_timestamp as event_timestamp, created_timestamp,
       if(created_timestamp < '2013-01-04', meters, lead(meters) over (partition by car order by created_timestamp))
       as meters
from trips where created_timestamp >= $start - interval 3 hour
"""


def test_a_long_build_that_looks_ahead_at_its_end_is_refused_again_and_again(
    cars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_sql, "PART_ROWS", 40)
    insert_trips([("c", hours, hours % 5) for hours in range(96)])
    (cars / "total.sql").write_text(LATE_LEAK)
    for _ in range(2):
        with pytest.raises(FeatureError, match="looks ahead"):
            build_cars(95, "only_total")
    assert len(open_lake("cars").commits("total")) == 3, "the days before it"
    # An earlier moment is built anew, and tried up to there: what was left unfinished is given to nobody.
    assert meters(build_cars(47, "only_total")["total"])[-1] == 71 % 5
    assert len(open_lake("cars").commits("total")) == 6


def test_unknown_project_and_service(cars: Path) -> None:
    with pytest.raises(FeatureError, match=r"'nothing'(.|\n)*\['all_of_it', 'only_total'\]"):
        build_cars(3, "nothing")
    with pytest.raises(FeatureError, match=r"'bikes'(.|\n)*\['cars'\]"):
        build_features.fn("bikes", ("x",), (), AS_OF)
