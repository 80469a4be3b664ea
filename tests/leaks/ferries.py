"""A small project whose data is whole: its sources, recipe, suites and feature files, and a run through its stages."""

import copy
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from configs.recipe import Recipe
from tasks.core.records import TrainingSetRef
from tasks.features import build_features
from tasks.ingestion import publish_batch, stage_table
from tasks.training_set import build_training_set
from tasks.validation import validate_batch

START = datetime(2020, 3, 1, tzinfo=UTC)
DAYS, PER_DAY = 60, 80
AS_OF = START + timedelta(days=DAYS)
FEATURES = """
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

pier = Entity(name="pier", join_keys=["pier"], value_type=ValueType.STRING)


def view(name, ttl, feature):
    times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
    source = FileSource(name=name, path=f"lake://{name}", **times)
    fields = [Field(name="pier", dtype=String), Field(name=feature, dtype=Float64)]
    return FeatureView(name=name, entities=[pier], ttl=ttl, source=source, schema=fields)


queue = view("queue", timedelta(hours=6), "waiting")
recent = view("recent", timedelta(hours=6), "mean_delay")
ferry_delay = FeatureService(name="ferry_delay", features=[queue, recent])
"""
RECENT = """-- One row per pier and arrival: the mean delay of the last two hours' arrivals.
select pier, created_timestamp as event_timestamp, created_timestamp,
       avg(delay) over (partition by pier order by created_timestamp
                        range between interval 2 hour preceding and current row) as mean_delay
from arrivals
where created_timestamp >= $start - interval 2 hour and created_timestamp < $end
"""
RECIPE: dict[str, Any] = {
    "project": "ferries",
    "description": "Will a ferry be late?",
    "start": START.date(),
    "tables": {
        "trips": {
            "description": "One row per trip; announced five days ahead.",
            "columns": {"trip": "trip", "pier": "pier", "miles": "miles"},
            "key": ["trip"], "event_timestamp": "leaves", "created_timestamp": "announced", "ahead": "14d",
        },
        "arrivals": {
            "description": "One row per arrival, known as it happens; it carries the label.",
            "columns": {"trip": "trip", "pier": "pier", "delay": "delay", "is_late": "is_late"},
            "key": ["trip"], "event_timestamp": "arrived", "created_timestamp": "told",
        },
        "queue": {
            "description": "One row per pier and half hour: who waits.",
            "columns": {"pier": "pier", "waiting": "waiting"},
            "key": ["pier"], "event_timestamp": "measured", "created_timestamp": "told",
        },
    },
    "features": {
        "service": "ferry_delay",
        "entity_rows": {
            "table": "trips",
            "prediction_time": "event_timestamp - interval 1 hour",
            "columns": {"pier": "pier", "miles": "miles"},
        },
    },
    "label": {"kind": "binary", "table": "arrivals", "expression": "is_late", "maturity": "36h"},
    "split": {"holdout": "14d", "validation": "11d", "embargo": "36h"},
    "model": {"network": "mlp"},
    "gate": {"primary": "auc", "margin": 0.01},
}  # fmt: skip


@dataclass
class Ferries:
    """One plant: `rows` are SQL over the clean sources that take their place, `recipe` dotted keys."""

    home: Path
    rows: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    recent: str = RECENT
    extra: dict[str, Any] = field(default_factory=dict)  # tables with sources of their own

    def train(self) -> TrainingSetRef:
        """Every stage from the source files to the training set."""
        recipe = self._prepare()
        published = []
        for name, table in recipe.tables.items():
            staged = stage_table.fn("ferries", name, table, START, AS_OF)
            published.append(publish_batch.fn(validate_batch.fn(staged, table), table).table)
        features = build_features.fn("ferries", (recipe.features.service,), tuple(published), AS_OF)
        return build_training_set.fn(
            "ferries", recipe.tables["trips"], recipe.features, recipe.label, recipe.split, recipe.audit, START, AS_OF,
            (*published, *(ref for ref in features if ref.name == "recent")),
        )  # fmt: skip

    def _prepare(self) -> Recipe:
        folder = self.home / "features" / "ferries"
        folder.mkdir(parents=True)
        (folder.parent / "ferries.py").write_text(FEATURES)
        (folder / "recent.sql").write_text(self.recent)
        data = copy.deepcopy(RECIPE)
        for key, value in self.recipe.items():
            *parents, last = key.split(".")
            place = data
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
        suites = self.home / "suites" / "ferries"
        suites.mkdir(parents=True)
        with duckdb.connect() as connection:
            connection.execute("set TimeZone = 'UTC'")
            for name, table in sources().items():
                connection.register(name, table)
            for name in data["tables"]:
                path = self.home / f"{name}.parquet"
                connection.execute(f"copy ({self.rows.get(name, f'from {name}')}) to '{path}' (format parquet)")
                data["tables"][name]["source"] = {"format": "parquet", "path": str(path)}
        data["tables"] |= self.extra
        for name in data["tables"]:
            (suites / f"{name}.json").write_text(json.dumps({"name": name, "expectations": []}))
        return Recipe.model_validate(data)


def sources() -> dict[str, pa.Table]:
    """A ferry is late where many wait; each pier has its own habits, each trip its luck."""
    random = np.random.default_rng(11)
    begin, slots = np.datetime64(START.replace(tzinfo=None), "us"), (DAYS + 1) * 48
    waiting = np.abs(np.cumsum(random.normal(size=(4, slots)), axis=1) % 40 - 20)
    slot = np.arange(slots) * np.timedelta64(30, "m")
    measured = np.concatenate([begin - np.timedelta64(1, "D") + slot] * 4)
    count = DAYS * PER_DAY
    pier, luck = random.integers(0, 4, count), random.normal(size=count)
    # No two arrivals at a pier in one second.
    leaves = begin + np.sort(random.choice(DAYS * 86_400, count, replace=False)) * np.timedelta64(1, "s")
    seen = waiting[pier, ((leaves - begin) // np.timedelta64(30, "m")).astype(int) + 48]
    delay = np.maximum(0, np.round(10 + 2 * seen + 12 * luck + 3 * pier))
    arrived = leaves + (60 + delay).astype(int) * np.timedelta64(1, "m") + np.arange(count) * np.timedelta64(1, "us")

    def utc(values: np.ndarray) -> pa.Array:
        return pa.array(values.astype("datetime64[us]")).cast(pa.timestamp("us", "UTC"))

    names = np.array([f"p{number}" for number in range(4)])
    trips = {"trip": np.arange(count), "pier": names[pier], "miles": random.integers(5, 30, count) * 1.0}
    told = measured + np.timedelta64(5, "m")
    return {
        "trips": pa.table({**trips, "leaves": utc(leaves), "announced": utc(leaves - np.timedelta64(5, "D"))}),
        "arrivals": pa.table(
            {
                "trip": np.arange(count), "pier": names[pier], "delay": delay, "is_late": delay >= 30,
                "arrived": utc(arrived), "told": utc(arrived),
            }
        ),
        "queue": pa.table(
            {
                "pier": np.repeat(names, slots), "waiting": waiting.ravel(),
                "measured": utc(measured), "told": utc(told),
            }
        ),
    }  # fmt: skip
