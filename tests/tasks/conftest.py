"""A small project of made-up trips, with every hard case of time in it: late knowledge, corrections, missing labels."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.recipe import Recipe
from tasks.core.records import TableRef
from tasks.stores.lake import Lake

START = datetime(2020, 3, 1, tzinfo=UTC)
AS_OF = START + timedelta(days=40)
TIME = pa.timestamp("us", "UTC")
FEATURE_FILE = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String, UnixTimestamp

station = Entity(name="station", join_keys=["station"], value_type=ValueType.STRING)


def view(name, ttl, **features):
    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
    source = FileSource(name=name, path=f"lake://{name}", **times)
    fields = [Field(name="station", dtype=String), *(Field(name=n, dtype=t) for n, t in features.items())]
    return FeatureView(name=name, entities=[station], ttl=ttl, source=source, schema=fields)


load = view("load", timedelta(hours=6), waiting=Float64, measured_at=UnixTimestamp)
facts = view("facts", timedelta(0), kind=String)
trip_delay = FeatureService(name="trip_delay", features=[load, facts])
older_delay = FeatureService(name="older_delay", features=[load])
"""
SOURCE = {"format": "parquet", "path": "unused"}
TIMES = {"event_timestamp": "left", "created_timestamp": "announced"}
RECIPE: dict[str, Any] = {
    "project": "trips",
    "description": "Will a trip be late?",
    "start": START.date(),
    "tables": {
        "trips": {
            "description": "One row per trip.",
            "source": SOURCE,
            "columns": {"trip": "trip", "station": "station", "miles": "miles"},
            "key": ["trip"],
            **TIMES,
        },
        "arrivals": {
            "description": "One row per arrival.",
            "source": SOURCE,
            "columns": {"trip": "trip", "delay": "delay"},
            "key": ["trip"],
            **TIMES,
        },
    },
    "features": {
        "service": "trip_delay",
        "entity_rows": {
            "table": "trips",
            "prediction_time": "event_timestamp - interval 1 hour",
            "columns": {"station": "station", "miles": "miles", "weekday": "isodow(event_timestamp)"},
        },
        "derived": {"load_age_hours": "date_diff('minute', load__measured_at, prediction_time) / 60"},
        "categorical": ["weekday"],
        "drop": ["load__measured_at"],
    },
    "label": {"kind": "binary", "table": "arrivals", "expression": "delay >= 30", "maturity": "36h"},
    "split": {"holdout": "6d", "validation": "4d", "embargo": "36h"},
    "model": {"network": "mlp"},
    "gate": {"primary": "auc", "margin": 0.01},
}


@dataclass(frozen=True)
class Trips:
    """The project's rows as Python values, its lake, and its recipe."""

    recipe: Recipe
    lake: Lake
    tables: tuple[TableRef, ...]
    rows: dict[str, list[dict[str, Any]]]

    def insert(self, name: str, rows: list[dict[str, Any]], key: tuple[str, ...]) -> TableRef:
        return insert_rows(self.lake, name, rows, key)


def insert_rows(lake: Lake, name: str, rows: list[dict[str, Any]], key: tuple[str, ...]) -> TableRef:
    path = Path(lake.uri).parent / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    for place, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(place, field.name, table[field.name].cast(TIME))
    pq.write_table(table, path)
    return lake.insert(name, str(path), key=key)[0]


@pytest.fixture(scope="session")
def trips_home(
    tmp_path_factory: pytest.TempPathFactory, trip_rows: dict[str, list[dict[str, Any]]]
) -> tuple[Path, tuple[TableRef, ...]]:
    """The lake filled once; the feature tables are ingested as they are."""
    root = tmp_path_factory.mktemp("trips")
    (root / "feature_repo").mkdir()
    (root / "feature_repo" / "trips.py").write_text(FEATURE_FILE)
    lake = Lake(str(root / "home" / "lake" / "trips"))
    keys = {"trips": ("trip",), "arrivals": ("trip",), "load": ("station",), "facts": ("station",)}
    return root, tuple(insert_rows(lake, name, trip_rows[name], key) for name, key in keys.items())


@pytest.fixture
def trips(
    trips_home: tuple[Path, tuple[TableRef, ...]],
    trip_rows: dict[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Trips]:
    """The project as it was ingested: what a test builds or logs is gone after it."""
    root, tables = trips_home
    monkeypatch.setenv("PERENNIAL_HOME", str(root / "home"))
    monkeypatch.setenv("PERENNIAL_FEATURE_REPO", str(root / "feature_repo"))
    lake = Lake(str(root / "home" / "lake" / "trips"))
    yield Trips(Recipe.model_validate(RECIPE), lake, tables, trip_rows)
    for left in ("training", "staging", "lake/trips/predictions"):
        shutil.rmtree(root / "home" / left, ignore_errors=True)


@pytest.fixture(scope="session")
def trip_rows() -> dict[str, list[dict[str, Any]]]:
    random = np.random.default_rng(5)

    def hours(low: float, high: float) -> timedelta:
        return timedelta(minutes=int(random.uniform(low, high) * 60))

    made: dict[str, list[dict[str, Any]]] = {"trips": [], "arrivals": [], "load": [], "facts": []}
    for trip in range(1800):
        leaves = START + hours(0, 42 * 24)
        station = f"s{random.integers(4)}"
        versions = [leaves - hours(24, 240)] + [leaves - hours(0, 30)] * (trip % 5 == 0)
        for number, created in enumerate(versions):
            leaving = leaves + number * hours(0, 5)
            made["trips"].append(
                {
                    "trip": trip,
                    "station": station,
                    "miles": float(random.integers(5, 50) + number),
                    "event_timestamp": leaving,
                    "created_timestamp": created,
                }
            )
        if trip % 20:
            delay = int(random.exponential(25))
            known = leaving + timedelta(minutes=60 + delay)
            for correction in range(1 + (trip % 7 == 0)):
                arrival = {"trip": trip, "delay": delay + 40 * correction, "event_timestamp": known}
                made["arrivals"].append({**arrival, "created_timestamp": known + correction * hours(1, 200)})
    for station in range(3):  # the fourth is unknown
        made["facts"].append(
            {"station": f"s{station}", "kind": "big" if station else "small", "event_timestamp": START - timedelta(30),
             "created_timestamp": START - timedelta(30)}
        )  # fmt: skip
        measured = START - timedelta(days=1)
        while measured < AS_OF:
            measured += hours(0.2, 9)
            made["load"].append(
                {"station": f"s{station}", "waiting": float(random.integers(0, 99)), "measured_at": measured,
                 "event_timestamp": measured, "created_timestamp": measured + random.choice([0, 1]) * hours(0, 7)}
            )  # fmt: skip
    return made


@pytest.fixture(scope="session")
def expected_rows(trip_rows: dict[str, list[dict[str, Any]]]) -> Callable[..., dict[int, dict[str, Any]]]:
    """What the rows of a window must be, by going through everything for each of them."""

    def go_through(start: datetime, end: datetime, as_of: datetime) -> dict[int, dict[str, Any]]:
        expected = {}
        for trip in sorted({row["trip"] for row in trip_rows["trips"]}):
            versions = [
                row
                for row in trip_rows["trips"]
                if row["trip"] == trip
                and row["created_timestamp"] <= min(as_of, row["event_timestamp"] - timedelta(hours=1))
            ]
            if not versions:
                continue
            row = max(versions, key=lambda version: (version["created_timestamp"], version["event_timestamp"]))
            moment = row["event_timestamp"] - timedelta(hours=1)
            if start <= moment < end:
                expected[trip] = {**_features(row, moment), "label": _label(trip, as_of)}
        return expected

    def _features(row: dict[str, Any], moment: datetime) -> dict[str, Any]:
        loads = [
            load
            for load in trip_rows["load"]
            if load["station"] == row["station"] and max(load["event_timestamp"], load["created_timestamp"]) <= moment
        ]
        load = max(loads, key=lambda one: (one["event_timestamp"], one["created_timestamp"]), default=None)
        if load and load["event_timestamp"] < moment - timedelta(hours=6):
            load = None
        facts = [fact["kind"] for fact in trip_rows["facts"] if fact["station"] == row["station"]]
        age = load and (moment - load["measured_at"]) // timedelta(minutes=1) / 60
        return {
            "station": row["station"],
            "miles": row["miles"],
            "weekday": str(row["event_timestamp"].isoweekday()),
            "load__waiting": load and load["waiting"],
            "facts__kind": facts[0] if facts else None,
            "load_age_hours": age and float(np.float32(age)),
            "prediction_time": moment,
        }

    def _label(trip: int, as_of: datetime) -> int | None:
        known = [a for a in trip_rows["arrivals"] if a["trip"] == trip and a["created_timestamp"] <= as_of]
        last = max(known, key=lambda arrival: (arrival["created_timestamp"], arrival["event_timestamp"]), default=None)
        return None if last is None else int(last["delay"] >= 30)

    return go_through
