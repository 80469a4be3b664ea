"""Feature tables against answers computed from the raw rows in plain loops; incremental builds against whole ones;
online features against offline ones."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from configs.recipe import load_recipe
from configs.settings import Settings
from tasks import feature_sql
from tasks.core.records import TableRef
from tasks.features import BEGINNING, build_features, materialize_features
from tasks.home import open_feature_store, open_lake
from tasks.ingestion import stage_table
from tasks.stores.lake import Lake

REPO = Settings().feature_repo
FLIGHTS = REPO / "flights"
SERVICE = ("flight_delay",)
HOUR = timedelta(hours=1)
WINDOWS = {"2h": 2 * HOUR, "24h": 24 * HOUR, "7d": 168 * HOUR}
MOMENT = pa.timestamp("us", "UTC")
START = datetime(2013, 1, 1, tzinfo=UTC)
AS_OF = datetime(2013, 1, 15, tzinfo=UTC)
Row = dict[str, Any]


# --- the oracle: straight from the raw rows, one moment at a time ---------------------------------------------


def versions_known(rows: list[Row], moment: datetime) -> list[Row]:
    """Of each flight the row that was told last, of those told at or before `moment`."""
    newest: dict[Any, Row] = {}
    for row in rows:
        flight = (row["carrier"], row["flight"], row["origin"], row["scheduled_departure"])
        told = (row["created_timestamp"], row["event_timestamp"])
        if row["created_timestamp"] <= moment and (
            flight not in newest or told > (newest[flight]["created_timestamp"], newest[flight]["event_timestamp"])
        ):
            newest[flight] = row
    return list(newest.values())


def rolling(known: list[Row], column: str, group: str, key: str, moment: datetime) -> Row:
    """Count, mean delay and late fraction of what was told in (moment - length, moment]."""
    answer: Row = {}
    for name, length in WINDOWS.items():
        delays = [r[column] for r in known if r[group] == key and r["created_timestamp"] > moment - length]
        answer[f"count_{name}"] = len(delays)
        answer[f"mean_delay_minutes_{name}"] = sum(delays) / len(delays) if delays else None
        answer[f"late_fraction_{name}"] = sum(d >= 15 for d in delays) / len(delays) if delays else None
    return answer


def last_arrival(known: list[Row], tailnum: str, moment: datetime) -> Row:
    recent = [r for r in known if r["tailnum"] == tailnum and r["created_timestamp"] > moment - WINDOWS["7d"]]
    identity = ("event_timestamp", "created_timestamp", "carrier", "flight", "origin", "scheduled_departure")
    last = max(recent, key=lambda r: tuple(r[name] for name in identity), default=None)
    if last is None:
        return {"arrived_at": None, "dest": None, "delay_minutes": None}
    return {
        "arrived_at": last["event_timestamp"],
        "dest": last["dest"],
        "delay_minutes": last["arrival_delay_minutes"],
    }


DELAYS = [
    (what, group, f"{what[:-1]}_delay_minutes")
    for what in ("departures", "arrivals")
    for group in ("origin", "carrier", "dest")
]


# --- SQL on made-up rows, with corrections ---------------------------------------------------------------------

half_hours = st.integers(0, 700).map(lambda n: START + n * HOUR / 2)
told_rows = st.lists(
    st.fixed_dictionaries(
        {
            "flight": st.integers(1, 3),  # few flights: the same one is told again and again
            "carrier": st.just("UA"),
            "origin": st.sampled_from(["JFK", "EWR"]),
            "dest": st.sampled_from(["BOS", "SFO"]),
            "tailnum": st.sampled_from(["N1", "N2", None]),
            "scheduled_departure": st.just(START),
            "event_timestamp": half_hours,
            "created_timestamp": half_hours,
            "delay": st.integers(-20, 40),
        }
    ),
    max_size=25,
    unique_by=lambda r: (r["flight"], r["origin"], r["event_timestamp"], r["created_timestamp"]),
)
TOLD = pa.schema(
    [
        ("flight", pa.int32()),
        *((name, pa.string()) for name in ("carrier", "origin", "dest", "tailnum")),
        *((name, MOMENT) for name in ("scheduled_departure", "event_timestamp", "created_timestamp")),
        ("departure_delay_minutes", pa.int32()),
        ("arrival_delay_minutes", pa.int32()),
    ]
)


def run_sql(rows: list[Row], table: str, start: datetime, end: datetime) -> list[Row]:
    given_rows = pa.Table.from_pylist(
        [{**row, "departure_delay_minutes": row["delay"], "arrival_delay_minutes": row["delay"]} for row in rows], TOLD
    )
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for name in ("departures", "arrivals"):
            connection.register(name, given_rows)
        sql = f"select * from ({(FLIGHTS / f'{table}.sql').read_text()}) order by all"
        connection.execute(f"create table made as {sql}", {"start": start, "end": end})
        return list(connection.sql("from made").to_arrow_table().to_pylist())


def served(features: list[Row], key: str, value: Any, moment: datetime) -> Row | None:
    """The row that a point-in-time join gives, ttl aside."""
    known = [row for row in features if row[key] == value and row["event_timestamp"] <= moment]
    return max(known, key=lambda row: row["event_timestamp"], default=None)


def moments_to_try(rows: list[Row]) -> Iterator[datetime]:
    for row in rows:
        for length in (timedelta(0), *WINDOWS.values()):
            yield row["created_timestamp"] + length - timedelta(microseconds=1)
            yield row["created_timestamp"] + length


# Not shrunk: each example runs much SQL, and is small enough to read.
@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(rows=told_rows, cut=half_hours)
def test_sql_equals_the_oracle_under_corrections(rows: list[Row], cut: datetime) -> None:
    end = START + timedelta(days=30)
    for table, key, column in [(f"{what}_by_{group}", group, "delay") for what, group, _ in DELAYS[3:]]:
        features = run_sql(rows, table, BEGINNING, end)
        for moment in moments_to_try(rows):
            for value in {row[key] for row in rows}:
                expected = rolling(versions_known(rows, moment), column, key, value, moment)
                row = served(features, key, value, moment)
                got = {name: row[name] for name in expected} if row else rolling([], column, key, value, moment)
                assert got == expected
        assert run_sql(rows, table, cut, end) == [row for row in features if row["event_timestamp"] >= cut]
    arrivals = [{**row, "arrival_delay_minutes": row["delay"]} for row in rows]
    features = run_sql(rows, "last_arrival", BEGINNING, end)
    for moment in moments_to_try(rows):
        for tailnum in ("N1", "N2"):
            expected = last_arrival(versions_known(arrivals, moment), tailnum, moment)
            row = served(features, "tailnum", tailnum, moment)
            assert {name: row[name] if row else None for name in expected} == expected
    assert run_sql(rows, "last_arrival", cut, end) == [row for row in features if row["event_timestamp"] >= cut]


def test_the_six_delay_tables_are_one_but_for_names() -> None:
    bodies = set()
    for what, group, column in DELAYS:
        text = (FLIGHTS / f"{what}_by_{group}.sql").read_text()
        body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
        flight_key = "carrier, flight, origin, scheduled_departure"
        body = body.replace(flight_key, "KEY").replace(column, "DELAY").replace(f"from {what}", "from WHAT")
        bodies.add(body.replace(group, "GROUP"))
    assert len(bodies) == 1


# --- real flights --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the flights of two weeks in its lake."""
    home = tmp_path_factory.mktemp("ingested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(home))
        lake = open_lake("flights")
        for name, table in load_recipe("flights").tables.items():
            batch = stage_table.fn("flights", name, table, START, AS_OF)
            lake.insert(name, batch.uri, key=table.key)
    return home


@pytest.fixture
def home(ingested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ingested / "lake", tmp_path / "home" / "lake")
    return enter(tmp_path / "home", monkeypatch)


def enter(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERENNIAL_HOME", str(home))
    return home


def source_tables() -> tuple[TableRef, ...]:
    lake = open_lake("flights")
    return tuple(lake.latest(name) for name in load_recipe("flights").tables)


def build(as_of: datetime, tables: tuple[TableRef, ...] | None = None) -> tuple[TableRef, ...]:
    return build_features.fn("flights", SERVICE, tables or source_tables(), as_of)


def raw(name: str) -> list[Row]:
    with open_lake("flights").connect({name: None}) as connection:
        return list(connection.sql(f"from {name}").to_arrow_table().to_pylist())


ENTITIES = """
    select carrier, flight, origin, scheduled_departure, dest, tailnum,
           event_timestamp - interval 2 hour as event_timestamp
    from schedule
"""


def test_joined_rows_equal_the_oracle_on_real_flights(home: Path) -> None:
    tables = source_tables()
    features = build(AS_OF)
    versions = {ref.name: ref.version for ref in (*tables, *features)}
    sample = f"select * from ({ENTITIES} where event_timestamp < timestamptz '{AS_OF}') using sample 40 (reservoir, 7)"
    with open_lake("flights").connect({"schedule": None}) as connection:
        entities = connection.sql(sample).to_arrow_table()
    joined = open_feature_store("flights").historical(entities, SERVICE, versions=versions).table().to_pylist()
    assert [{name: row[name] for name in entities.column_names} for row in joined] == entities.to_pylist()

    told = {"departures": raw("departures"), "arrivals": raw("arrivals")}
    weather = raw("weather")
    planes = {row["tailnum"]: row for row in raw("planes")}
    airports = {row["faa"]: row for row in raw("airports")}
    assert any(row["departures_by_dest__count_2h"] for row in joined)
    assert any(row["last_arrival__dest"] for row in joined)
    for row in joined:
        moment = row["event_timestamp"]
        known = {what: versions_known(rows, moment) for what, rows in told.items()}
        for what, group, column in DELAYS:
            expected = rolling(known[what], column, group, row[group], moment)
            nothing_yet = all(r[group] != row[group] for r in known[what])
            assert part(row, f"{what}_by_{group}") == (dict.fromkeys(expected) if nothing_yet else expected)
        assert part(row, "last_arrival") == last_arrival(known["arrivals"], row["tailnum"], moment)
        reports = [
            r for r in weather if r["origin"] == row["origin"] and moment - 6 * HOUR <= r["created_timestamp"] <= moment
        ]
        report = max(reports, key=lambda r: r["event_timestamp"], default={})
        expected = {name: report.get(name) for name in part(row, "weather_at_origin")}
        assert part(row, "weather_at_origin") == {**expected, "observed_at": report.get("event_timestamp")}
        plane = planes.get(row["tailnum"], {})
        assert part(row, "aircraft") == {name: plane.get(name) for name in part(row, "aircraft")}
        for end in ("origin", "dest"):
            airport = airports.get(row[end], {})
            assert part(row, f"{end}_airport") == {name: airport.get(name) for name in part(row, f"{end}_airport")}


def part(row: Row, view: str) -> Row:
    return {name.removeprefix(f"{view}__"): value for name, value in row.items() if name.startswith(f"{view}__")}


def test_online_equals_offline_for_a_thousand_live_entities(home: Path) -> None:
    tables = source_tables()
    moment = AS_OF - 5 * HOUR - timedelta(minutes=17)  # at work, and the lake knows more than may be served
    features = build(AS_OF)
    everything = (*tables, *features)
    with open_lake("flights").connect({"schedule": None}) as connection:
        live = f"select * from ({ENTITIES}) where scheduled_departure > timestamptz '{moment}' order by all limit 1000"
        rows = connection.sql(live).to_arrow_table().drop_columns("event_timestamp")
    # Twice, so that the second run's window is the short one.
    for as_of in (moment - 3 * 24 * HOUR, moment):
        materialize_features.fn("flights", SERVICE, everything, as_of, timedelta(days=4))
    store = open_feature_store("flights")
    online = store.online(SERVICE, rows, as_of=moment)
    now = pa.array([moment] * rows.num_rows, MOMENT)
    versions = {ref.name: ref.version for ref in everything}
    offline = store.historical(rows.append_column("event_timestamp", now), SERVICE, versions=versions).table()
    assert online.num_rows == 1000
    assert rows["tailnum"].null_count > 0
    assert online.equals(offline.drop_columns("event_timestamp").select(online.column_names).cast(online.schema))
    assert online["last_arrival__dest"].null_count < 900


def insert_late_rows() -> datetime:
    """A late departure and arrival, a correction of each, a late report and a correction of an older one; the smallest
    known time among them."""
    lake = open_lake("flights")
    first = datetime(2013, 1, 6, 15, 30, tzinfo=UTC)
    changes = {
        "departures": f"""
            select * replace (flight + 9000 as flight, timestamptz '{first}' as created_timestamp) from
              (from departures where created_timestamp < timestamptz '{first}' order by all limit 3)
            union all
            select * replace (departure_delay_minutes + 100 as departure_delay_minutes, 'BOS' as dest,
                              created_timestamp + interval 20 hour as created_timestamp) from
              (from departures where event_timestamp > timestamptz '{first}' order by all limit 5)""",
        "arrivals": """
            select * replace (arrival_delay_minutes - 30 as arrival_delay_minutes, 'N1' as tailnum,
                              event_timestamp - interval 1 hour as event_timestamp,
                              created_timestamp + interval 1 hour as created_timestamp) from
              (from arrivals where event_timestamp > timestamptz '2013-01-09 20:00Z' order by all limit 50)""",
        "weather": """
            select * replace (99::double as temperature_fahrenheit,
                              created_timestamp + interval 150 minute as created_timestamp)
            from weather where event_timestamp = timestamptz '2013-01-10 10:00Z'""",
        "planes": """
            select * replace (1900 as year_built, timestamptz '2013-01-08 00:00Z' as created_timestamp,
                              event_timestamp - interval 1 day as event_timestamp)
            from (from planes order by all limit 1)
            union all
            select * replace (1901 as year_built, timestamptz '2013-01-08 00:00Z' as created_timestamp,
                              event_timestamp + interval 1 day as event_timestamp)
            from (from planes order by all offset 1 limit 1)""",
    }
    for name, sql in changes.items():
        path = f"{lake.uri}/{name}.late.parquet"
        with lake.connect({name: None}) as connection:
            connection.execute(f"copy ({sql}) to '{path}' (format parquet)")
        _, inserted = lake.insert(name, path, key=load_recipe("flights").tables[name].key)
        assert inserted > 0
        Path(path).unlink()
    return first


def read_all(refs: tuple[TableRef, ...]) -> dict[str, Any]:
    with open_lake("flights").connect({ref.name: ref.version for ref in refs}) as connection:
        return {ref.name: connection.sql(f"from {ref.name} order by all").to_arrow_table() for ref in refs}


def test_incremental_equals_whole(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {path.name for path in (home / "lake" / "flights").iterdir()}
    build(AS_OF - 6 * 24 * HOUR)
    build(AS_OF - 4 * 24 * HOUR)
    first = insert_late_rows()
    incremental = build(AS_OF)
    lake = open_lake("flights")
    began = {ref.name: lake.commits(ref.name)[-1].properties["min_created"] for ref in incremental}
    assert datetime.fromisoformat(began["departures_by_dest"]) == first
    assert all(datetime.fromisoformat(moment) >= first for moment in began.values())
    shutil.copytree(home / "lake", tmp_path / "whole" / "lake")
    for path in (tmp_path / "whole" / "lake" / "flights").iterdir():
        if path.is_dir() and path.name not in sources:
            shutil.rmtree(path)
    got = read_all(incremental)
    enter(tmp_path / "whole", monkeypatch)
    whole = build(AS_OF)
    expected = read_all(whole)
    assert len(expected) == 10
    for name, table in expected.items():
        assert got[name].equals(table), name
    assert [ref.digest for ref in incremental] == [ref.digest for ref in whole]


def test_a_long_build_is_done_in_parts_and_goes_on_where_it_was_cut_off(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home, tmp_path / "parts")
    whole = build(AS_OF)
    expected = read_all(whole)
    enter(tmp_path / "parts", monkeypatch)
    monkeypatch.setattr(feature_sql, "PART_ROWS", 3_000)
    put_in_place = Lake.replace

    def first_part_only(self: Lake, name: str, rows: Any, *, start: datetime | None, **said: Any) -> TableRef:
        if start is not None:
            raise InterruptedError(name)
        return put_in_place(self, name, rows, start=start, **said)

    with monkeypatch.context() as cut_off:
        cut_off.setattr(Lake, "replace", first_part_only)
        with pytest.raises(InterruptedError):
            build(AS_OF)
    parts = build(AS_OF)
    lake, got = open_lake("flights"), read_all(parts)
    for name, table in expected.items():
        assert got[name].equals(table), name
    assert [ref.digest for ref in parts] == [ref.digest for ref in whole]
    ends = {ref.name: [commit.properties["end"][:10] for commit in lake.commits(ref.name)] for ref in parts}
    assert ends["departures_by_dest"] == ["2013-01-04", "2013-01-11", "2013-01-15"], "no shorter than a week"
    assert ends["weather_at_origin"] == ["2013-01-15"], "its table is a small one"


def test_nothing_new_is_nothing_done_and_earlier_moments_are_served(home: Path) -> None:
    tables = source_tables()
    early = build(AS_OF - 24 * HOUR, tables)
    late = build(AS_OF, tables)
    assert build(AS_OF, tables) == late
    assert {ref.version for ref in late} == {1}
    # The very build of before is found again; a moment that was never built is served by the table that is there.
    assert build(AS_OF - 24 * HOUR, tables) == early
    assert build(AS_OF - 12 * HOUR, tables) == late
    assert all(a.rows < b.rows for a, b in zip(early, late, strict=True) if "_by_" in a.name)
