"""Definitions, materialization and online reads, against real Feast, on SQLite, PostgreSQL and Redis of our own."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.errors import FeatureError
from tasks.stores.feature_store import FeatureStore
from tasks.stores.lake import Lake
from tests.stores import online_servers

NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MOMENT = pa.timestamp("us", "UTC")
FOREVER = timedelta(days=3650)

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Int64, String, UnixTimestamp

car = Entity(name="car", join_keys=["car"], value_type=ValueType.STRING)

def source(table, **options):
    options = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp", **options}
    return FileSource(name=table, path=f"lake://{table}", **options)

speed = FeatureView(
    name="speed", entities=[car], ttl=timedelta(hours=1), source=source("speed"),
    schema=[
        Field(name="car", dtype=String), Field(name="value", dtype=Int64), Field(name="seen_at", dtype=UnixTimestamp),
    ],
)
own = speed.with_name("own")
ahead = speed.with_name("ahead").with_join_key_map({"car": "car_ahead"})
alone = FeatureService(name="alone", features=[speed[["value"]]])
timed = FeatureService(name="timed", features=[speed])
convoy = FeatureService(name="convoy", features=[own[["value"]], ahead])
"""


def at(minutes: float) -> datetime:
    return NOON + minutes * MINUTE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "feature_repo"
    folder.mkdir()
    (folder / "cars.py").write_text(DEFINITIONS)
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def open_store(folder: Path, **options: Any) -> FeatureStore:
    home = folder.parent / "feast" / "cars"
    options = {"project": "cars", "folder": folder, "home": home, "lake_uri": str(folder.parent / "lake"), **options}
    return FeatureStore(**options)


def write(lake: Lake, rows: list[tuple[Any, ...]]) -> None:
    """Rows of (car, event, created, value)."""
    names = ["car", "event_timestamp", "created_timestamp", "value"]
    schema = pa.schema(list(zip(names, [pa.string(), MOMENT, MOMENT, pa.int64()], strict=True)))
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)
    table = table.append_column("seen_at", table["event_timestamp"])
    lake.replace("speed", table, start=None, properties={"digest": "0" * 16})


def cars(*names: str | None) -> pa.Table:
    return pa.table({"car": pa.array(names, pa.string())})


def materialize(store: FeatureStore, as_of: datetime, **options: Any) -> int:
    return store.materialize(("alone",), **{"as_of": as_of, "lookback": FOREVER, **options})["speed"]


def served(store: FeatureStore, as_of: datetime, *names: str | None) -> list[int | None]:
    return store.online(("alone",), cars(*names), as_of=as_of)["speed__value"].to_pylist()


# --- definitions -----------------------------------------------------------------------------------------


def test_definitions_tell_views_tables_and_keys(folder: Path) -> None:
    definitions = open_store(folder).definitions
    own, ahead = definitions.views(("convoy",))
    assert own.outputs == ("own__value",)
    assert (ahead.name, ahead.base, ahead.table) == ("ahead", "speed", "speed")
    assert ahead.keys == (("car", "car_ahead"),)
    assert ahead.ttl == timedelta(hours=1)
    (speed,) = definitions.views(("alone", "timed"))
    assert speed.outputs == ("speed__value", "speed__seen_at")
    assert definitions.tables(("convoy",))["speed"].columns == {
        "car": "VARCHAR",
        "value": "BIGINT",
        "seen_at": "TIMESTAMP WITH TIME ZONE",
    }
    with pytest.raises(FeatureError, match=r"no feature service 'together'(.|\n)*\['alone', 'convoy', 'timed'\]"):
        definitions.views(("together",))


def test_only_the_projects_own_file_is_read(folder: Path) -> None:
    (folder / "broken.py").write_text("raise RuntimeError('of another project')")
    assert open_store(folder).definitions.services.keys() == {"alone", "convoy", "timed"}
    with pytest.raises(FeatureError, match=r"'trains'(.|\n)*\['broken', 'cars'\]"):
        _ = open_store(folder, project="trains").definitions
    with pytest.raises(FeatureError, match=r"broken\.py cannot be read(.|\n)*of another project"):
        _ = open_store(folder, project="broken").definitions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('source=source("speed")', 'source=source("speed", created_timestamp_column="")'), "names its columns"),
        (('path=f"lake://{table}"', 'path=f"/data/{table}"'), "is not in the lake"),
        (("entities=[car]", "entities=[]"), "no entity"),
        (("[own[", "[speed["), "uses view 'speed' more than once"),
        (("[own[", '["speed", own['), "names its views by text"),
        (('Field(name="value", dtype=Int64)', 'Field(name="value", dtype=Array(Int64))'), "INT64_LIST"),
    ],
)
def test_definitions_that_cannot_be_served_are_refused(folder: Path, change: tuple[str, str], message: str) -> None:
    text = DEFINITIONS.replace(*change).replace("import Int64", "import Array, Int64")
    assert text != DEFINITIONS
    (folder / "cars.py").write_text(text)
    with pytest.raises(FeatureError, match=message):
        _ = open_store(folder).definitions


def test_one_name_for_two_views_is_refused(folder: Path) -> None:
    behind = '\nbehind = speed.with_name("ahead").with_join_key_map({"car": "car_behind"})\n'
    (folder / "cars.py").write_text(DEFINITIONS + behind + 'rear = FeatureService(name="rear", features=[behind])\n')
    with pytest.raises(FeatureError, match="call different views 'ahead'"):
        open_store(folder).definitions.views(("convoy", "rear"))


def test_applied_once_and_again_only_when_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import feast

    applied = []
    apply = feast.FeatureStore.apply
    monkeypatch.setattr(feast.FeatureStore, "apply", lambda self, objects: (applied.append(1), apply(self, objects))[1])
    for _ in range(2):
        assert "alone" in open_store(folder).definitions.services
    assert len(applied) == 1
    (folder / "cars.py").write_text(DEFINITIONS.replace("hours=1", "hours=2"))
    assert open_store(folder).definitions.views(("alone",))[0].ttl == timedelta(hours=2)
    (open_store(folder).home / "online.db").unlink()
    _ = open_store(folder).definitions
    assert len(applied) == 3


def test_a_service_that_left_the_file_can_still_be_joined(folder: Path, lake: Lake) -> None:
    write(lake, [("a", at(0), at(0), 1)])
    _ = open_store(folder).definitions
    (folder / "cars.py").write_text(
        DEFINITIONS.replace('alone = FeatureService(name="alone"', 'x = FeatureService(name="x"')
    )
    entities = cars("a").append_column("event_timestamp", pa.array([at(1)], MOMENT))
    joined = open_store(folder).historical(entities, ("alone", "x")).table()
    assert joined.to_pylist() == [{"car": "a", "event_timestamp": at(1), "speed__value": 1}]


# --- history ----------------------------------------------------------------------------------------------


def test_history_of_several_services_is_joined_at_once(folder: Path, lake: Lake, tmp_path: Path) -> None:
    write(lake, [("a", at(0), at(0), 1), ("b", at(0), at(0), 2)])
    entities = "select 'a' as car, 'b' as car_ahead, max(event_timestamp) as event_timestamp from speed"
    job = open_store(folder).historical(entities, ("alone", "timed", "convoy"), versions={"speed": 0})
    assert job.write(tmp_path / "rows.arrow") == 1
    with pa.ipc.open_file(tmp_path / "rows.arrow") as file:
        row = file.read_all().to_pylist()[0]
    assert list(row)[3:] == ["speed__value", "speed__seen_at", "own__value", "ahead__value", "ahead__seen_at"]
    assert (row["own__value"], row["ahead__value"], row["ahead__seen_at"]) == (1, 2, at(0))


# --- online -----------------------------------------------------------------------------------------------


def test_online_serves_the_newest_that_is_known(folder: Path, lake: Lake, online_store: str | None) -> None:
    big = 2**53 + 1  # a double cannot hold it, and Feast's own conversion makes doubles where a null is among them
    write(
        lake,
        [
            ("a", at(0), at(0), 1),
            ("a", at(5), at(5), big),
            ("a", at(6), at(50), 3),  # told later than the end
            ("b", at(0), at(0), None),
            (None, at(0), at(0), 4),
        ],
    )
    store = open_store(folder, online_store=online_store)
    assert materialize(store, at(10)) == 2
    assert served(store, at(10), "b", "a", None, "nobody", "a") == [None, big, None, None, big]
    assert materialize(store, at(50)) == 2
    assert served(store, at(50), "a") == [3]


def test_ttl_is_enforced_online(folder: Path, lake: Lake, online_store: str | None) -> None:
    write(lake, [("a", at(0), at(0), 1)])
    store = open_store(folder, online_store=online_store)
    materialize(store, at(0))
    moments = [at(-1), at(0), at(60), at(60) + timedelta(microseconds=1)]
    assert [served(store, moment, "a")[0] for moment in moments] == [None, 1, 1, None]


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_times_do_not_go_through_the_machines_zone(folder: Path, lake: Lake, online_store: str | None) -> None:
    lost = datetime(2024, 3, 10, 2, 30, tzinfo=UTC)  # there is no half past two in New York on this day
    write(lake, [("a", lost, lost, 1)])
    store = open_store(folder, online_store=online_store)
    materialize(store, lost)
    assert served(store, lost, "a") == [1]
    assert served(store, lost + 61 * MINUTE, "a") == [None]


def test_an_older_range_never_replaces_newer_values(folder: Path, lake: Lake, online_store: str | None) -> None:
    rows = [("a", at(0), at(0), 1), ("a", at(10), at(10), 2), ("a", at(10), at(15), 3), ("b", at(0), at(0), 4)]
    write(lake, rows)
    store = open_store(folder, online_store=online_store)
    materialize(store, at(20))
    for older in (at(5), at(12)):
        assert materialize(store, older) == 0
    assert served(store, at(20), "a", "b") == [3, 4]
    assert materialize(store, at(20)) == 2  # and the older runs did not move the end back
    write(lake, [*rows, ("c", at(1), at(1), 5)])
    assert materialize(store, at(5)) == 1
    assert served(store, at(20), "a", "b", "c") == [3, 4, 5]


def test_a_correction_of_the_same_time_replaces(folder: Path, lake: Lake, online_store: str | None) -> None:
    write(lake, [("a", at(0), at(0), 1)])
    store = open_store(folder, online_store=online_store)
    materialize(store, at(1))
    write(lake, [("a", at(0), at(0), 1), ("a", at(0), at(2), 2)])
    assert materialize(store, at(3)) == 1
    assert served(store, at(3), "a") == [2]


def test_two_newest_rows_of_one_key_are_refused(folder: Path, lake: Lake) -> None:
    write(lake, [("a", at(0), at(0), 1), ("b", at(0), at(1), 2), ("b", at(0), at(1), 3)])
    with pytest.raises(FeatureError, match=r"'speed' is ambiguous(.|\n)*b, 2024-03-10"):
        materialize(open_store(folder), at(2))


def test_an_online_store_that_was_lost_is_filled_again(folder: Path, lake: Lake) -> None:
    write(lake, [("a", at(0), at(0), 1), ("b", at(20), at(20), 2)])
    store = open_store(folder)
    assert materialize(store, at(30)) == 2
    (store.home / "online.db").unlink()
    assert materialize(open_store(folder), at(40), lookback=MINUTE) == 2


def test_registry_and_online_store_in_one_database(folder: Path, lake: Lake, postgres: dict[str, Any]) -> None:
    online_servers.clear(postgres)
    write(lake, [("a", at(0), at(0), 1)])
    url = f"postgresql+psycopg://feast@127.0.0.1:{postgres['port']}/postgres"
    told = {"registry_url": url, "online_store": json.dumps(postgres)}
    assert materialize(open_store(folder, **told), at(1)) == 1
    assert materialize(open_store(folder, **told), at(1), lookback=timedelta(0)) == 0
    assert served(open_store(folder, **told), at(1), "a") == [1]
    assert not list((folder.parent / "feast").rglob("*.db"))


def test_a_server_that_is_not_there_is_told_of(folder: Path, lake: Lake) -> None:
    write(lake, [("a", at(0), at(0), 1)])
    gone = {"type": "redis", "connection_string": f"127.0.0.1:{online_servers.free_port()}"}
    with pytest.raises(FeatureError, match="PERENNIAL_ONLINE_STORE"):
        materialize(open_store(folder, online_store=json.dumps(gone)), at(1))


def test_the_window_is_our_own(folder: Path, lake: Lake, online_store: str | None) -> None:
    write(lake, [("a", at(0), at(0), 1), ("b", at(20), at(20), 2)])
    store = open_store(folder, online_store=online_store)
    assert materialize(store, at(30)) == 2
    # Told late, behind Feast's watermark: within the lookback it is written, before it it is not.
    write(lake, [("a", at(0), at(0), 1), ("b", at(20), at(20), 2), ("c", at(25), at(40), 3), ("d", at(5), at(40), 4)])
    assert materialize(store, at(40), lookback=10 * MINUTE) == 2
    assert served(store, at(40), "a", "b", "c", "d") == [1, 2, 3, None]
    # Another SQL made the table: everything is written again.
    assert materialize(store, at(40), lookback=MINUTE) == 0
    assert materialize(store, at(40), lookback=MINUTE, builds={"speed": "other"}) == 4


def test_online_rows_need_the_key(folder: Path, lake: Lake) -> None:
    write(lake, [("a", at(0), at(0), 1)])
    with pytest.raises(FeatureError, match=r"lack \['car_ahead'\]"):
        open_store(folder).online(("convoy",), cars("a"), as_of=at(1))


def test_another_home_is_another_world(folder: Path, lake: Lake, tmp_path: Path) -> None:
    write(lake, [("a", at(0), at(0), 1)])
    materialize(open_store(folder), at(1))
    assert served(open_store(folder, home=tmp_path / "elsewhere"), at(1), "a") == [None]
    config = f'{{"type": "sqlite", "path": "{tmp_path}/other.db"}}'
    assert served(open_store(folder, online_store=config), at(1), "a") == [None]
