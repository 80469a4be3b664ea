"""The point-in-time join against answers written by hand, and against an oracle in plain loops."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.types import Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.errors import FeatureError
from tasks.stores import asof_sql, asof_store
from tasks.stores.asof_store import AsofJob, AsofOfflineStore, AsofOfflineStoreConfig
from tasks.stores.lake import Lake

MINUTE = timedelta(minutes=1)
NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
MOMENT = pa.timestamp("us", "UTC")
HOUR = timedelta(hours=1)


def at(minutes: float) -> datetime:
    return NOON + minutes * MINUTE


def make_view(name: str = "speed", keys: tuple[str, ...] = ("car",), ttl: timedelta = HOUR) -> FeatureView:
    entities = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in keys]
    fields = [Field(name=key, dtype=String) for key in keys]
    source = FileSource(
        name=name,
        path=f"lake://{name}",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    return FeatureView(
        name=name, entities=entities, ttl=ttl, source=source, schema=[*fields, Field(name="value", dtype=Int64)]
    )


def feature_rows(rows: list[tuple[Any, ...]], keys: tuple[str, ...] = ("car",)) -> pa.Table:
    """Rows of (key…, event, created, value)."""
    schema = pa.schema(
        [
            *((key, pa.string()) for key in keys),
            ("event_timestamp", MOMENT),
            ("created_timestamp", MOMENT),
            ("value", pa.int64()),
        ]
    )
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def entity_rows(rows: list[tuple[Any, ...]], keys: tuple[str, ...] = ("car",)) -> pa.Table:
    """Rows of (key…, time, label)."""
    schema = pa.schema([*((key, pa.string()) for key in keys), ("event_timestamp", MOMENT), ("label", pa.int64())])
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def join(lake: Lake, entities: Any, *views: FeatureView, full: bool = True, **versions: int) -> AsofJob:
    config = SimpleNamespace(offline_store=AsofOfflineStoreConfig(lake_uri=lake.uri, versions=versions))
    refs = [f"{view.projection.name_to_use()}:value" for view in views]
    return AsofOfflineStore.get_historical_features(config, list(views), refs, entities, None, "cars", full)


def write(lake: Lake, name: str, table: pa.Table) -> None:
    lake.replace(name, table, start=None, properties={"digest": "0" * 16})


A, B = "a", "b"
CASES: dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[int | None]]] = {
    # name: feature rows (key, event, created, value), entity rows (key, time, label), the right values
    "feature at the entity's very moment is included": (
        [(A, at(0), at(0), 1)],
        [(A, at(0), 0), (A, at(0) - timedelta(microseconds=1), 0)],
        [1, None],
    ),
    "entity earlier than every feature keeps its row": ([(A, at(0), at(0), 1)], [(A, at(-1), 7)], [None]),
    "ttl: age equal to it is kept, a microsecond more is not": (
        [(A, at(0), at(0), 1)],
        [(A, at(60), 0), (A, at(60) + timedelta(microseconds=1), 0)],
        [1, None],
    ),
    "ttl counts from the event, not from when it became known": (
        [(A, at(0), at(59), 1)],
        [(A, at(60), 0), (A, at(61), 0)],
        [1, None],
    ),
    "one event told twice: the latest created wins, each from when it was known": (
        [(A, at(0), at(5), 1), (A, at(0), at(10), 2), (A, at(0), at(20), 3)],
        [(A, at(4), 0), (A, at(5), 0), (A, at(10), 0), (A, at(19), 0), (A, at(20), 0)],
        [None, 1, 2, 2, 3],
    ),
    "one event told twice before it happened: the latest created wins": (
        [(A, at(0), at(-20), 1), (A, at(0), at(-10), 2)],
        [(A, at(-5), 0), (A, at(0), 0)],
        [None, 2],
    ),
    "known late: invisible to the past, and then it does not displace a newer event": (
        [(A, at(0), at(30), 1), (A, at(10), at(10), 2)],
        [(A, at(9), 0), (A, at(10), 0), (A, at(30), 0), (A, at(50), 0)],
        [None, 2, 2, 2],
    ),
    "two events that become known together: the later event": (
        [(A, at(0), at(30), 1), (A, at(10), at(30), 2)],
        [(A, at(29), 0), (A, at(30), 0)],
        [None, 2],
    ),
    "without created time, known as it happens": (
        [(A, at(0), None, 1), (A, at(5), None, 2)],
        [(A, at(0), 0), (A, at(5), 0)],
        [1, 2],
    ),
    "same key and time with other labels: all are kept": (
        [(A, at(0), at(0), 1)],
        [(A, at(1), 0), (A, at(1), 1), (A, at(1), 1)],
        [1, 1, 1],
    ),
    "null keys match nothing, not even each other": (
        [(None, at(0), at(0), 1), (A, at(0), at(0), 2)],
        [(None, at(1), 0), (A, at(1), 0)],
        [None, 2],
    ),
    "a null entity time keeps its row": ([(A, at(0), at(0), 1)], [(A, None, 0), (A, at(1), 0)], [None, 1]),
    "a null feature time is no feature": ([(A, None, at(0), 1), (A, at(0), at(0), 2)], [(A, at(1), 0)], [2]),
    "a newest row with a null value hides the one before": (
        [(A, at(0), at(0), 1), (A, at(5), at(5), None)],
        [(A, at(6), 0)],
        [None],
    ),
    "no feature rows, no entity rows": ([], [], []),
    "order is the given one": (
        [(A, at(0), at(0), 1), (B, at(0), at(0), 2)],
        [(B, at(3), 0), (A, at(1), 1), (B, at(2), 2), (A, at(5), 3)],
        [2, 1, 2, 1],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_join_gives_the_right_answer(lake: Lake, case: str) -> None:
    features, entities, expected = CASES[case]
    write(lake, "speed", feature_rows(features))
    given_rows = entity_rows(entities)
    joined = join(lake, given_rows, make_view()).table()
    assert joined["speed__value"].to_pylist() == expected
    assert joined.select(given_rows.column_names).to_pylist() == given_rows.to_pylist()


def test_composite_keys_are_compared_part_by_part(lake: Lake) -> None:
    keys = ("make", "plate")
    write(lake, "speed", feature_rows([("1", "23", at(0), at(0), 1), ("12", "3", at(0), at(0), 2)], keys))
    entities = entity_rows([("12", "3", at(1), 0), ("1", "23", at(1), 0), ("1", None, at(1), 0)], keys)
    assert join(lake, entities, make_view(keys=keys)).table()["speed__value"].to_pylist() == [2, 1, None]


def test_one_view_joined_twice_by_other_keys(lake: Lake) -> None:
    write(lake, "speed", feature_rows([(A, at(0), at(0), 1), (B, at(0), at(0), 2)]))
    view = make_view()
    first = view.with_projection(view.with_name("leader").with_join_key_map({"car": "ahead"}).projection)
    second = view.with_projection(view.with_name("follower").with_join_key_map({"car": "behind"}).projection)
    entities = entity_rows([(A, B, at(1), 0)], ("ahead", "behind"))
    joined = join(lake, entities, first, second).table().to_pylist()[0]
    assert (joined["leader__value"], joined["follower__value"]) == (1, 2)


@pytest.mark.parametrize("late", [timedelta(0), MINUTE], ids=["known at once", "known later"])
def test_duplicate_feature_rows_are_refused(lake: Lake, late: timedelta) -> None:
    write(lake, "speed", feature_rows([(A, at(0), at(0) + late, 1), (A, at(0), at(0) + late, 2)]))
    with pytest.raises(FeatureError, match=r"'speed' is ambiguous\n.*a, 2024-03-10 12:00:00"):
        join(lake, entity_rows([(A, at(5), 0)]), make_view()).table()
    with pytest.raises(FeatureError, match="ambiguous"):
        _pull_latest(lake, at(-9), at(9)).table()


@pytest.mark.parametrize("name", ["value", "VALUE"])
def test_a_feature_named_like_an_entity_column_is_refused(lake: Lake, name: str) -> None:
    write(lake, "speed", feature_rows([(A, at(0), at(0), 1)]))
    entities = entity_rows([(A, at(1), 0)]).rename_columns(["car", "event_timestamp", name])
    with pytest.raises(FeatureError, match="'value' of view 'speed' has the name of an entity column"):
        join(lake, entities, make_view(), full=False).table()
    assert join(lake, entities, make_view()).table()["speed__value"].to_pylist() == [1]


def test_entity_rows_as_sql_data_frame_and_arrow_are_one(lake: Lake) -> None:
    write(lake, "speed", feature_rows([(A, at(0), at(0), 1), (B, at(0), at(0), 2)]))
    rows = entity_rows([(B, at(1), 5), (A, at(1), 6), (A, at(-1), 7)])
    write(lake, "trips", rows.append_column("created_timestamp", rows["event_timestamp"]))
    frame = rows.to_pandas()
    frame["event_timestamp"] = frame["event_timestamp"].astype("datetime64[ns, UTC]")
    naive = frame.assign(event_timestamp=frame["event_timestamp"].dt.tz_localize(None))
    sql = "select car, event_timestamp, label from trips order by label"
    tables = [join(lake, entities, make_view()).table() for entities in (rows, frame, naive, sql)]
    assert tables[0]["speed__value"].to_pylist() == [2, 1, None]
    assert [table.to_pylist() for table in tables] == [tables[0].to_pylist()] * 4


def test_streams_to_arrow_and_parquet(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asof_store, "BATCH_ROWS", 2048)
    write(lake, "speed", feature_rows([(A, at(i), at(i), i) for i in range(5000)]))
    rows = entity_rows([(A, at(i % 5000) + 30 * timedelta(seconds=1), i) for i in range(10_000)])
    job = join(lake, rows, make_view())
    expected = [i % 5000 for i in range(10_000)]
    assert job.write(tmp_path / "rows.arrow") == 10_000
    with pa.ipc.open_file(tmp_path / "rows.arrow") as file:
        assert file.num_record_batches > 1
        assert file.read_all()["speed__value"].to_pylist() == expected
    storage = SavedDatasetFileStorage(path=str(tmp_path / "rows.parquet"))
    job.persist(storage)
    assert pq.read_table(tmp_path / "rows.parquet")["speed__value"].to_pylist() == expected
    with pytest.raises(FeatureError, match="there already"):
        job.persist(storage)


def test_pinned_versions_are_read_and_nothing_else(lake: Lake) -> None:
    write(lake, "speed", feature_rows([(A, at(0), at(0), 1)]))
    write(lake, "speed", feature_rows([(A, at(0), at(0), 2)]))
    entities = entity_rows([(A, at(1), 0)])
    assert join(lake, entities, make_view(), speed=0).table()["speed__value"].to_pylist() == [1]
    assert join(lake, entities, make_view()).table()["speed__value"].to_pylist() == [2]
    write(lake, "trips", feature_rows([(A, at(1), at(1), 1)]))
    with pytest.raises(FeatureError, match="trips"):
        join(lake, "select * from trips", make_view(), speed=0).table()


def test_entity_rows_without_key_or_time_are_refused(lake: Lake) -> None:
    write(lake, "speed", feature_rows([(A, at(0), at(0), 1)]))
    rows = entity_rows([(A, at(1), 0)])
    with pytest.raises(FeatureError, match=r"lack \['car'\]"):
        join(lake, rows.drop_columns("car"), make_view()).table()
    with pytest.raises(FeatureError, match="without a time"):
        join(lake, rows.drop_columns("event_timestamp"), make_view()).table()
    renamed = rows.rename_columns(["car", "prediction_time", "label"])
    assert join(lake, renamed, make_view()).table()["prediction_time"].to_pylist() == [at(1)]


def _pull_latest(lake: Lake, start: datetime, end: datetime) -> AsofJob:
    config = SimpleNamespace(offline_store=AsofOfflineStoreConfig(lake_uri=lake.uri))
    return AsofOfflineStore.pull_latest_from_table_or_query(
        config, make_view().batch_source, ["car"], ["value"], "event_timestamp", "created_timestamp", start, end
    )


def test_latest_rows_are_those_known_at_the_end(lake: Lake) -> None:
    rows = [
        (A, at(0), at(0), 1),
        (A, at(5), at(50), 2),  # not known yet at 20
        (A, at(3), at(10), 3),
        (A, at(3), at(15), 4),  # corrects the one before
        (B, at(-90), at(-90), 5),  # before the window
        ("c", at(20), at(20), 6),
        (None, at(1), at(1), 7),
    ]
    write(lake, "speed", feature_rows(rows))
    latest = _pull_latest(lake, at(-60), at(20)).table().sort_by("car")
    assert list(zip(latest["car"].to_pylist(), latest["value"].to_pylist(), strict=True)) == [(A, 4), ("c", 6)]
    config = SimpleNamespace(offline_store=AsofOfflineStoreConfig(lake_uri=lake.uri))
    every = AsofOfflineStore.pull_all_from_table_or_query(
        config, make_view().batch_source, ["car"], ["value"], "event_timestamp", None, at(-60), at(3)
    )
    assert sorted(every.table()["value"].to_pylist()) == [1, 3, 4, 7]


# --- against an oracle ---------------------------------------------------------------------------------

moments = st.none() | st.integers(0, 12).map(at)
cars = st.sampled_from([A, B, None])
feature_strategy = st.lists(
    st.tuples(cars, st.integers(0, 12).map(at), moments), max_size=30, unique_by=lambda row: (row[0], row[1], row[2])
)
entity_strategy = st.lists(st.tuples(cars, moments), max_size=12)


def oracle(features: list[Any], key: Any, time: datetime | None, ttl: timedelta) -> int | None:
    """The newest event that is known at `time`, by trying every row."""
    best: tuple[datetime, datetime, int] | None = None
    for car, event, created, value in features:
        told = event if created is None else created
        if key is None or time is None or car != key or event > time or told > time:
            continue
        if best is None or (event, told) > best[:2]:
            best = (event, told, value)
    if best is None or (ttl and time - best[0] > ttl):
        return None
    return best[2]


class MemoryLake:
    """The lake's connection over tables in memory, for speed: what is under test is the join's SQL."""

    tables: ClassVar[dict[str, pa.Table]] = {}

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def connect(self, _: Any, **__: Any) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect()
        connection.execute("set timezone = 'UTC'")
        for name, table in self.tables.items():
            connection.register(name, table)
        return connection


@pytest.fixture
def memory_lake(monkeypatch: pytest.MonkeyPatch) -> type[MemoryLake]:
    monkeypatch.setattr(asof_store, "Lake", MemoryLake)
    return MemoryLake


def cut_by(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(asof_sql, "PART_ROWS", rows)
    monkeypatch.setattr(asof_sql, "SAMPLED", 1)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    features=feature_strategy,
    entities=entity_strategy,
    ttl=st.sampled_from([0, 1, 4]),
    part=st.sampled_from([2, 100]),
    worth=st.sampled_from([0, 100]),
)
def test_join_equals_the_oracle(
    memory_lake: type[MemoryLake],
    monkeypatch: pytest.MonkeyPatch,
    features: Any,
    entities: Any,
    ttl: int,
    part: int,
    worth: int,
) -> None:
    cut_by(monkeypatch, part)
    monkeypatch.setattr(asof_sql, "WORTH_NUMBERS", worth)
    # One row is told at its event and by `created is null`: the same known time, so a duplicate in all but name.
    told = {(car, event, event if created is None else created) for car, event, created in features}
    features = [(*row, number) for number, row in enumerate(sorted(told, key=str))]
    view = make_view(ttl=ttl * MINUTE)
    memory_lake.tables = {"speed": feature_rows(features)}
    rows = entity_rows([(car, time, number) for number, (car, time) in enumerate(entities)])
    joined = join(SimpleNamespace(uri="memory"), rows, view).table()
    assert joined["label"].to_pylist() == list(range(len(entities)))
    assert joined["speed__value"].to_pylist() == [oracle(features, car, time, ttl * MINUTE) for car, time in entities]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(features=feature_strategy, entities=entity_strategy, lag=st.sampled_from([-1, 0, 1, 3]))
def test_rows_that_are_all_known_equally_late_need_no_windows(
    memory_lake: type[MemoryLake], features: Any, entities: Any, lag: int
) -> None:
    told = sorted({(car, event) for car, event, _ in features}, key=str)
    features = [(car, event, event + lag * MINUTE, number) for number, (car, event) in enumerate(told)]
    memory_lake.tables = {"speed": feature_rows(features)}
    rows = entity_rows([(car, time, number) for number, (car, time) in enumerate(entities)])
    job = join(SimpleNamespace(uri="memory"), rows, make_view(ttl=4 * MINUTE))
    with job.open() as (connection, query):
        joined = connection.sql(query).to_arrow_table()
        assert "window" not in query
    assert joined["speed__value"].to_pylist() == [oracle(features, car, time, 4 * MINUTE) for car, time in entities]


@pytest.mark.parametrize("is_in_order", [True, False])
def test_many_entity_rows_are_joined_part_by_part_and_come_back_in_their_order(
    memory_lake: type[MemoryLake], monkeypatch: pytest.MonkeyPatch, is_in_order: bool
) -> None:
    cut_by(monkeypatch, 100)
    minutes = np.arange(1_000) if is_in_order else np.random.default_rng(1).permutation(1_000)
    entities = [(A, None, 0), (None, at(0), 1)]  # rows that join with nothing are rows all the same
    entities += [("ab"[minute % 2], at(int(minute)), number) for number, minute in enumerate(minutes, start=2)]
    features = [(car, at(minute), at(minute + 3), minute) for car in (A, B) for minute in range(0, 1_000, 7)]
    memory_lake.tables = {"speed": feature_rows(features)}
    job = join(SimpleNamespace(uri="memory"), entity_rows(entities), make_view(ttl=9 * MINUTE))
    with job.open() as (connection, query):
        joined = connection.sql(query).to_arrow_table()
        assert "from joined_" in query
        assert ("order by" in query) != is_in_order
    assert joined["label"].to_pylist() == list(range(1_002))
    assert joined["speed__value"].to_pylist() == [oracle(features, car, time, 9 * MINUTE) for car, time, _ in entities]


def test_parts_that_would_each_read_everything_are_not_made(
    memory_lake: type[MemoryLake], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_by(monkeypatch, 10)
    memory_lake.tables = {"speed": feature_rows([(A, at(minute), at(minute), minute) for minute in range(1_000)])}
    entities = entity_rows([(A, at(minute), minute) for minute in range(100)])
    with join(SimpleNamespace(uri="memory"), entities, make_view(ttl=timedelta(0))).open() as (_, query):
        assert "from joined_" not in query


def test_a_row_from_before_all_time_never_displaces_another(memory_lake: type[MemoryLake]) -> None:
    always, features = -(2**63 - 1), feature_rows([(A, at(0), at(5), 1), (A, at(0), at(4), 2)])
    moments = [always, *features["event_timestamp"].cast(pa.int64()).to_pylist()[1:]]
    memory_lake.tables = {"speed": features.set_column(1, "event_timestamp", pa.array(moments).cast(MOMENT))}
    view, rows = make_view(ttl=timedelta(0)), entity_rows([(A, at(3), 0), (A, at(4), 0), (A, at(5), 0)])
    assert join(SimpleNamespace(uri="memory"), rows, view).table()["speed__value"].to_pylist() == [None, 2, 2]


def test_frames_keep_nanosecond_pandas_columns(memory_lake: type[MemoryLake]) -> None:
    memory_lake.tables = {"speed": feature_rows([(A, at(0), at(0), 1)])}
    frame = pd.DataFrame({"car": [A], "when": pd.to_datetime([at(1)]).as_unit("ns")})
    assert join(SimpleNamespace(uri="memory"), frame, make_view()).table()["speed__value"].to_pylist() == [1]
